//! A condition about one probe: what every name is and how it is compared, negations resolved.

/// A condition that has been typed against a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formula {
    /// All of them hold.
    All(Vec<Formula>),
    /// At least one of them holds.
    Any(Vec<Formula>),
    /// One value is compared. One that cannot be read fails the test, negated or not.
    Test(Test),
}

/// One value, compared with one constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// The value.
    pub operand: Operand,
    /// The comparison.
    pub check: Check,
    /// Whether the comparison must not hold.
    pub negated: bool,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The argument at this position of [`ProbeSpec::args`](crate::ProbeSpec::args).
    Arg(usize),
    /// The return value.
    Return,
    /// The call's duration in nanoseconds.
    Duration,
    /// The process id.
    Pid,
    /// The thread's id.
    Tid,
    /// The thread's name.
    Comm,
}

/// How it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// As a number. The constant is a value of the type.
    Number {
        /// Width of the type.
        bits: u8,
        /// Whether its sign bit counts. Never with a mask.
        signed: bool,
        /// Only these bits count.
        mask: u64,
        /// Equal, less or greater.
        order: Order,
        /// What it is compared with.
        constant: i128,
    },
    /// As a NUL-terminated string, behind a pointer or the thread's name.
    Str {
        /// What it is compared with; without NUL.
        text: Vec<u8>,
        /// Whether it ends there too.
        whole: bool,
    },
    /// As bytes behind a pointer, which begin with these; never empty. That there are as many is a
    /// test of its own.
    Bytes {
        /// What they are compared with.
        text: Vec<u8>,
    },
}

/// How two numbers compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The value is the constant.
    Equal,
    /// It is less.
    Less,
    /// It is greater.
    Greater,
}

impl Operand {
    /// Whether it is only known at the entry.
    #[must_use]
    pub fn is_of_entry(self) -> bool {
        matches!(self, Self::Arg(_))
    }

    /// Whether it is only known at the return.
    #[must_use]
    pub fn is_of_return(self) -> bool {
        matches!(self, Self::Return | Self::Duration)
    }
}

impl Formula {
    /// The parts that must all hold.
    #[must_use]
    pub fn conjuncts(&self) -> Vec<&Self> {
        match self {
            Self::All(parts) => parts.iter().flat_map(Self::conjuncts).collect(),
            other => vec![other],
        }
    }

    /// Every test in it.
    #[must_use]
    pub fn tests(&self) -> Vec<&Test> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::tests).collect(),
            Self::Test(test) => vec![test],
        }
    }

    /// Whether it names an argument.
    #[must_use]
    pub fn needs_entry(&self) -> bool {
        self.tests().iter().any(|test| test.operand.is_of_entry())
    }

    /// Whether it names the return value or the duration.
    #[must_use]
    pub fn needs_return(&self) -> bool {
        self.tests().iter().any(|test| test.operand.is_of_return())
    }
}
