//! Compiled conditions mean what they say: whole, from the text on, against direct evaluation.

use proptest::prelude::*;
use tracer_common::{
    interpret::{choice::return_registers, judge::Judged},
    testbed::{FIRST, Hit, Pages, State},
};

use super::*;
use faultline_spec::ProbeSpec;

const PROBE: &str = "t:f(small: i8, port: u16, n: i64, path: str) -> i32";
const PATH: usize = 3;

/// A call, as the kernel side would find it.
#[derive(Debug, Clone)]
struct Call {
    small: i8,
    port: u16,
    n: i64,
    /// What a compiler may leave in the upper bits.
    dirt: u64,
    /// `None`: it cannot be read.
    path: Option<String>,
    pid: u32,
    ret: i32,
    duration_ns: u64,
}

/// What the eBPF program says: it runs the same interpreter.
fn judge(
    conditions: &Conditions,
    condition: &Condition,
    call: &Call,
    mut registers: [u64; 8],
) -> Judged {
    let mut pages = Pages::new(|_| State::Resident, |_| b'.');
    if let Some(path) = &call.path {
        pages.fill(FIRST, path.as_bytes());
        pages.fill(FIRST + path.len() as u64, &[0]);
        registers[PATH] = FIRST;
    }
    let pid_tgid = u64::from(call.pid) << 32;
    Hit::new(&pages, &conditions.texts, pid_tgid, [0; 16]).judge(&condition.tests, registers, 0)
}

/// Entry and return together: whether the call is wanted.
fn is_wanted(conditions: &Conditions, indices: Indices, call: &Call) -> bool {
    let upper = |bits: u32| (call.dirt << (bits - 1)) << 1;
    let registers = [
        u64::from(call.small as u8) | upper(8),
        u64::from(call.port) | upper(16),
        call.n as u64,
        0,
        0,
        0,
        0,
        0,
    ];
    let mut saved = 0;
    if indices.entry != NO_CONDITION {
        let condition = &conditions.conditions[indices.entry as usize];
        let judged = judge(conditions, condition, call, registers);
        if !judged.accepted {
            return false;
        }
        saved = judged.saved;
    }
    if indices.at_return == NO_CONDITION {
        return true;
    }
    let value = u64::from(call.ret as u32) | upper(32);
    let registers = return_registers(value, call.duration_ns, u32::from(saved));
    let condition = &conditions.conditions[indices.at_return as usize];
    judge(conditions, condition, call, registers).accepted
}

/// A condition, apart from everything that is tested.
#[derive(Debug, Clone)]
enum Wish {
    All(Vec<Wish>),
    Any(Vec<Wish>),
    Not(Box<Wish>),
    /// A name, an operator, a constant.
    Number(&'static str, &'static str, i128),
    /// The bits of `port`.
    Bits(u16),
    /// An operator and a text for `path`.
    Path(&'static str, String),
}

impl Wish {
    fn text(&self) -> String {
        let joined = |parts: &[Self], operator: &str| {
            let parts: Vec<_> = parts.iter().map(|part| format!("({})", part.text())).collect();
            parts.join(operator)
        };
        match self {
            Self::All(parts) => joined(parts, " && "),
            Self::Any(parts) => joined(parts, " || "),
            Self::Not(negated) => format!("!({})", negated.text()),
            Self::Number("duration", operator, ns) => format!("duration {operator} {ns}ns"),
            Self::Number(name, operator, number) => format!("{name} {operator} {number}"),
            Self::Bits(mask) => format!("port & {mask} != 0"),
            Self::Path(operator, text) => format!("path {operator} \"{text}\""),
        }
    }

    /// Whether it holds; with `negated`, whether its negation does. What cannot be read makes
    /// neither hold.
    fn holds(&self, call: &Call, negated: bool) -> bool {
        match self {
            Self::Not(inner) => inner.holds(call, !negated),
            Self::All(parts) if !negated => parts.iter().all(|part| part.holds(call, false)),
            Self::Any(parts) if negated => parts.iter().all(|part| part.holds(call, true)),
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().any(|part| part.holds(call, negated))
            }
            Self::Number(name, operator, constant) => {
                let value = match *name {
                    "small" => i128::from(call.small),
                    "port" => i128::from(call.port),
                    "n" => i128::from(call.n),
                    "pid" => i128::from(call.pid),
                    "ret" => i128::from(call.ret),
                    _ => i128::from(call.duration_ns),
                };
                let holds = match *operator {
                    "==" => value == *constant,
                    "!=" => value != *constant,
                    "<" => value < *constant,
                    "<=" => value <= *constant,
                    ">" => value > *constant,
                    _ => value >= *constant,
                };
                holds != negated
            }
            Self::Bits(mask) => (call.port & mask != 0) != negated,
            Self::Path(operator, text) => call.path.as_ref().is_some_and(|path| {
                let holds = match *operator {
                    "==" => path == text,
                    "!=" => path != text,
                    _ => path.starts_with(text),
                };
                holds != negated
            }),
        }
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    let operator = prop::sample::select(&["==", "!=", "<", "<=", ">", ">="][..]);
    let number = prop_oneof![
        (Just("small"), -128..128_i128),
        (Just("port"), 0..65536_i128),
        (Just("n"), any::<i64>().prop_map(i128::from)),
        (prop::sample::select(&["small", "n", "ret"][..]), -2..3_i128),
        (prop::sample::select(&["port", "pid", "duration"][..]), 0..4_i128),
        (Just("ret"), any::<i32>().prop_map(i128::from)),
    ];
    let path_operator = prop::sample::select(&["==", "!=", "^="][..]);
    let leaf = prop_oneof![
        3 => (number, operator).prop_map(|((name, number), op)| Wish::Number(name, op, number)),
        1 => any::<u16>().prop_map(Wish::Bits),
        2 => (path_operator, text()).prop_map(|(operator, text)| {
            // No condition begins with nothing.
            let text = if operator == "^=" { format!("a{text}") } else { text };
            Wish::Path(operator, text)
        }),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Wish::All),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Wish::Any),
            inner.prop_map(|negated| Wish::Not(Box::new(negated))),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{0,3}", "a{60,70}", "a{124,130}b?", "a{200,255}"]
}

fn call() -> impl Strategy<Value = Call> {
    let small = prop_oneof![any::<i8>(), -2..3_i8];
    let port = prop_oneof![any::<u16>(), 0..4_u16];
    let n = prop_oneof![any::<i64>(), -2..3_i64];
    let ret = prop_oneof![any::<i32>(), -2..3_i32];
    let path = prop::option::weighted(0.8, text());
    (small, port, n, any::<u64>(), path, 0..4_u32, ret, 0..4_u64).prop_map(
        |(small, port, n, dirt, path, pid, ret, duration_ns)| Call {
            small,
            port,
            n,
            dirt,
            path,
            pid,
            ret,
            duration_ns,
        },
    )
}

proptest! {
    /// Check that a compiled condition wants just the calls that its text does, whatever part of
    /// it is judged at the entry and at the return.
    #[test]
    fn compiled_conditions_mean_what_they_say(
        wish in wish(),
        calls in prop::collection::vec(call(), 8),
    ) {
        let probe: ProbeSpec = PROBE.parse().unwrap();
        let text = wish.text();
        let condition: spec::Condition = text.parse().unwrap();
        let Ok(formula) = condition.typed(&probe) else {
            // Too many comparisons.
            return Ok(());
        };
        let mut conditions = Conditions::default();
        let indices = conditions.add(&formula, Arch::X86_64, false).unwrap();
        for call in &calls {
            let wanted = is_wanted(&conditions, indices, call);
            prop_assert_eq!(wanted, wish.holds(call, false), "{} of {:?}", text, call);
        }
    }
}

fn compiled(text: &str, probe: &str) -> Result<(Conditions, Indices), SkipReason> {
    let (condition, probe) = (text.parse::<spec::Condition>(), probe.parse::<ProbeSpec>());
    let (condition, probe) = (condition.unwrap(), probe.unwrap());
    let mut conditions = Conditions::default();
    let formula = condition.typed(&probe).unwrap();
    let indices = conditions.add(&formula, Arch::X86_64, probe.offset != 0)?;
    Ok((conditions, indices))
}

/// Check that each part is judged as soon as it can be: a condition that needs no return has none.
#[test]
fn parts_are_judged_where_they_can_be() {
    for (text, entry, at_return) in [
        ("small > 1 && pid == 1", true, false),
        ("ret < 0", false, true),
        ("small > 1 && ret < 0", true, true),
        ("small > 1 || ret < 0", true, true),
        ("pid == 1 || ret < 0", false, true),
    ] {
        let (_, indices) = compiled(text, PROBE).unwrap();
        let judged = (indices.entry != NO_CONDITION, indices.at_return != NO_CONDITION);
        assert_eq!(judged, (entry, at_return), "{text}");
    }
}

/// Check that probes that judge alike share a condition, and equal texts are kept once.
#[test]
fn conditions_are_shared() {
    let condition: spec::Condition = "path in {\"a\", \"b\", \"a\"}".parse().unwrap();
    let mut conditions = Conditions::default();
    for probe in ["t:f(path: str)", "t:g(path: str, n: i32)", "t:h(n: i32, path: str)"] {
        let formula = condition.typed(&probe.parse().unwrap()).unwrap();
        conditions.add(&formula, Arch::X86_64, false).unwrap();
    }
    assert_eq!((conditions.conditions.len(), conditions.texts.len()), (2, 2));
}

/// Check that an argument on the stack is read from there, and refused past the entry.
#[test]
fn stack_arguments() {
    let args = "(_, _, _, _, _, _, g: i32)";
    let (conditions, indices) = compiled("g == 1", &format!("t:f{args}")).unwrap();
    let test = conditions.conditions[indices.entry as usize].tests[0];
    assert_eq!((test.source, test.stack_offset), (Source::Stack as u8, 8));
    let inside = compiled("g == 1", &format!("t:f+4{args}"));
    assert!(matches!(inside, Err(SkipReason::StackInside)));
}
