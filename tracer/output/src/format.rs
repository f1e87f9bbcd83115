//! The formats that a run can write.

use super::{JsonSink, Sink, TextSink};

/// Who reads a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Tables may be redrawn in place; the summary does not belong among the events.
    People,
    /// Everything is one stream, the summary last.
    Programs,
}

/// Defines [`Format`] from a line for each format: its name, who reads it, and its sink, which writes
/// escape sequences if `colour` is set.
macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident, $reader:ident, |$colour:pat_param| $sink:expr;)+) => {
        /// A format that a run can write.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Format {
            $($(#[$doc])* $name),+
        }

        impl Format {
            /// A sink that writes this format; with `colour`, a format for people contains escape
            /// sequences.
            #[must_use]
            pub fn sink(self, colour: bool) -> Box<dyn Sink> {
                match (self, colour) {
                    $((Self::$name, $colour) => Box::new($sink)),+
                }
            }

            const fn reader(self) -> Reader {
                match self {
                    $(Self::$name => Reader::$reader),+
                }
            }
        }
    };
}

formats! {
    /// Lines, tables and sentences.
    Text, People, |colour| TextSink::new(colour);
    /// One JSON object a line.
    Json, Programs, |_| JsonSink::new();
}

impl Format {
    /// Whether people read it: they see interim tables redrawn in place, and the summary apart from the
    /// events. For programs, everything is one stream, the summary last.
    #[must_use]
    pub const fn is_for_people(self) -> bool {
        matches!(self.reader(), Reader::People)
    }
}
