//! The figures of a summary, made from the table of counters.
//!
//! Each row of [`tracer_common::counters!`] becomes a field, with its sum and its JSON. Those with the role
//! `end` are part of the equation that the figures are checked against.

use std::ops::AddAssign;

use serde::Serialize;
use tracer_common::counter::{Counter, ENTRIES, RETURNS};

/// Makes the structures.
macro_rules! structures {
    ($(
        $(#[$about:meta])*
        $kind:ident $group:ident { $(
            $(#[$doc:meta])*
            $source:ident $name:tt $field:ident [$($role:ident)*]
                $(=> $($metric:ident $label:literal),+)?;
        )* }
    )*) => { $(
        structure! { $kind [$(#[$about])*] $group { $( [$(#[$doc])*] $source $name $field; )* } }

        impl AddAssign for $group {
            fn add_assign(&mut self, other: Self) {
                $( self.$field += other.$field; )*
            }
        }

        impl OfKernel for $group {
            fn of_kernel(get: &impl Fn(Counter) -> u64) -> Self {
                Self { $( $field: of_kernel!($source $name get) ),* }
            }
        }

        impl Accounted for $group {
            fn accounted(&self) -> u128 {
                0 $( $( + of_role!($role $source self.$field) )* )*
            }
        }
    )* };
}

/// Makes a structure of a kind.
macro_rules! structure {
    (figures [$($about:tt)*] $group:ident { $( [$($doc:tt)*] $source:tt $name:tt $field:ident; )* }) => {
        $($about)*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        pub struct $group { $( $($doc)* pub $field: field_type!($source $name), )* }
    };
    (causes $about:tt $group:ident { $( $doc:tt $source:tt $name:tt $field:ident; )* }) => {
        structure! { figures $about $group { $( $doc $source $name $field; )* } }

        impl $group {
            /// All of them together.
            #[must_use]
            pub fn total(&self) -> u64 {
                [$( self.$field ),*].into_iter().fold(0, u64::saturating_add)
            }
        }
    };
    (errnos [$($about:tt)*] $group:ident { $( [$($doc:tt)*] $source:tt $name:tt $field:ident; )* }) => {
        $($about)*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "UPPERCASE")]
        pub struct $group {
            $( $($doc)* #[serde(skip_serializing_if = "is_zero")] pub $field: u64, )*
        }

        impl $group {
            /// All of them together.
            #[must_use]
            pub fn total(&self) -> u64 {
                [$( self.$field ),*].into_iter().fold(0, u64::saturating_add)
            }
        }
    };
}

macro_rules! field_type {
    (group $group:ident) => {
        $group
    };
    ($source:tt $name:tt) => {
        u64
    };
}

/// The part of a field that the programs count.
macro_rules! of_kernel {
    (kernel $counter:ident $get:ident) => {
        $get(Counter::$counter)
    };
    (hits $name:tt $get:ident) => {
        ENTRIES.into_iter().chain(RETURNS).map($get).sum()
    };
    (group $group:ident $get:ident) => {
        $group::of_kernel($get)
    };
    (total $group:ident $get:ident) => {
        $group::of_kernel($get).total()
    };
    (user $name:tt $get:ident) => {
        0
    };
}

/// The number of hits that a field accounts for.
macro_rules! of_role {
    (end group $value:expr) => {
        u128::from($value.total())
    };
    (end $source:tt $value:expr) => {
        u128::from($value)
    };
    ($role:ident $source:tt $value:expr) => {
        0
    };
}

tracer_common::counters!(structures);

/// Figures that the programs count, at least some of them.
pub trait OfKernel: Sized {
    /// Those that the programs count; `get` gives the value of a counter.
    fn of_kernel(get: &impl Fn(Counter) -> u64) -> Self;
}

/// Figures that account for hits.
pub(super) trait Accounted {
    /// The hits that are accounted for.
    fn accounted(&self) -> u128;
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Reads {
    /// All reads.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.resident, self.faulted, self.truncated, self.failed]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Whether each failed read has its reason.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.failed == self.failed_by_errno.total()
    }
}

impl Counts {
    /// Whether all hits are accounted for, and reads add up.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.accounted() == u128::from(self.hits) && self.reads.is_conserved()
    }

    /// Hits of which nothing is known. 0 but for a run that was left without waiting.
    #[must_use]
    pub fn unaccounted(&self) -> u64 {
        let unaccounted = u128::from(self.hits).saturating_sub(self.accounted());
        u64::try_from(unaccounted).unwrap_or(u64::MAX)
    }
}
