//! The table of results: a column for each kernel, a row for each test program, one for each of its
//! modules, and one for each test that did not pass everywhere. It is Markdown, to go into
//! docs/kernels.md as it is.

use std::fmt::Write as _;

use super::results::{Group, Outcome, Run};

/// A kernel and the results of its tests.
#[derive(Debug)]
pub(crate) struct Column {
    /// Where the kernel comes from.
    pub(crate) from: String,
    pub(crate) run: Run,
}

/// The whole table, its notes below it.
pub(crate) fn table(columns: &[Column]) -> String {
    let mut notes = Vec::new();
    let mut rows = vec![row("kernel", columns, |column| {
        let release = &column.run.release;
        let release = release.strip_suffix("-amd64").unwrap_or(release);
        format!("{release} ({})", column.from)
    })];
    rows.push(row("boot", columns, |column| match column.run.up_s {
        Some(seconds) if column.from != "host" => format!("{seconds:.1} s"),
        Some(_) => "–".to_owned(),
        None => "FAILED".to_owned(),
    }));
    for name in names(columns, |group| vec![group.name.clone()]) {
        let is_empty = |group: &Group| group.tests.is_empty() && group.problem().is_none();
        if columns.iter().all(|column| group(column, &name).is_some_and(is_empty)) {
            // None of the tests that were asked for.
            continue;
        }
        rows.push(row(&name, columns, |column| {
            group(column, &name).map_or_else(|| "no result".to_owned(), group_cell)
        }));
        for module in names(columns, |group| modules(group, &name)) {
            rows.push(row(&format!("{name}::{module}"), columns, |column| {
                let of_module = |test: &str| module_of(test) == Some(&module);
                group(column, &name)
                    .map_or_else(|| "no result".to_owned(), |group| counts(group, of_module))
            }));
        }
        rows.extend(tests_that_differ(&name, columns, &mut notes));
    }
    rows.push(row("other", columns, |column| match column.run.problems.len() {
        0 => "fine".to_owned(),
        _ => "FAILED".to_owned(),
    }));
    let mut text = aligned(&rows);
    for (number, note) in notes.iter().enumerate() {
        let _ = write!(text, "\n{}. {note}", number + 1);
    }
    for column in columns {
        for failure in column.run.failures() {
            let _ = write!(text, "\n{} ({}): {failure}", column.run.release, column.from);
        }
    }
    text
}

fn row(name: &str, columns: &[Column], cell: impl FnMut(&Column) -> String) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(columns.iter().map(cell)).collect()
}

/// All names that occur in any column, in the order in which they first do.
fn names(columns: &[Column], of: impl Fn(&Group) -> Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in columns.iter().flat_map(|column| &column.run.groups).flat_map(of) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn group<'a>(column: &'a Column, name: &str) -> Option<&'a Group> {
    column.run.groups.iter().find(|group| group.name == name)
}

/// The first part of a test's path, if it has more than one.
fn module_of(test: &str) -> Option<&str> {
    Some(test.split_once("::")?.0)
}

/// The modules of a program's tests.
fn modules(group: &Group, program: &str) -> Vec<String> {
    let tests = group.tests.keys().filter(|_| group.name == program);
    let mut modules: Vec<_> = tests.filter_map(|test| module_of(test)).map(str::to_owned).collect();
    modules.dedup();
    modules
}

/// How many of these tests passed, were skipped and failed.
fn counts(group: &Group, of: impl Fn(&str) -> bool) -> String {
    let count = |wanted: fn(&Outcome) -> bool| {
        group.tests.iter().filter(|(test, outcome)| of(test) && wanted(outcome)).count()
    };
    let mut cell = format!("{} passed", count(|outcome| *outcome == Outcome::Passed));
    for (number, what) in [
        (count(|outcome| *outcome == Outcome::SecondTry), "at the second try"),
        (count(|outcome| matches!(outcome, Outcome::Skipped(_))), "skipped"),
        (count(|outcome| *outcome == Outcome::Failed), "FAILED"),
    ] {
        if number > 0 {
            let _ = write!(cell, ", {number} {what}");
        }
    }
    cell
}

fn group_cell(group: &Group) -> String {
    let mut cell = counts(group, |_| true);
    if group.problem().is_some() && !cell.contains("FAILED") {
        cell += ", FAILED";
    }
    let _ = write!(cell, ", {} s", group.took.as_secs());
    cell
}

fn tests_that_differ(
    program: &str,
    columns: &[Column],
    notes: &mut Vec<String>,
) -> Vec<Vec<String>> {
    let tests = names(columns, |group| {
        if group.name == program { group.tests.keys().cloned().collect() } else { Vec::new() }
    });
    let outcome = |column: &Column, test: &str| group(column, program)?.tests.get(test).cloned();
    let differs =
        |test: &String| columns.iter().any(|column| outcome(column, test) != Some(Outcome::Passed));
    let mut rows = Vec::new();
    for test in tests.iter().filter(|test| differs(test)) {
        rows.push(row(&format!("{program}::{test}"), columns, |column| {
            match outcome(column, test) {
                None => "no result".to_owned(),
                Some(Outcome::Passed) => "passed".to_owned(),
                Some(Outcome::Failed) => "FAILED".to_owned(),
                Some(Outcome::SecondTry) => "passed at the second try".to_owned(),
                Some(Outcome::Skipped(reason)) => format!("skipped ({})", number(reason, notes)),
            }
        }));
    }
    rows
}

/// The number of a note, which is made if there is none like it.
fn number(note: String, notes: &mut Vec<String>) -> usize {
    let known = notes.iter().position(|other| *other == note);
    known.unwrap_or_else(|| {
        notes.push(note);
        notes.len() - 1
    }) + 1
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (cell, &width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text += "|\n";
        if index == 0 {
            widths.iter().for_each(|width| text += &format!("|{}", "-".repeat(width + 2)));
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(from: &str, output: &str) -> Column {
        let mut run = Run::default();
        output.lines().for_each(|line| run.line(line));
        Column { from: from.to_owned(), run }
    }

    /// Check that a test that passes everywhere has no row of its own, that the others do, and that
    /// each reason appears once.
    #[test]
    fn whole_table() {
        let old = column(
            "bookworm",
            "vm: up 4.81 6.1.0-50-amd64\nvm: begin a\nrunning 4 tests\ntest one ... ok\n\
             test two ... ok\ntest three ... ok\ntest four ... ok\nvm: end 0\n\
             vm: skip two: links, since Linux 6.6\nvm: skip three: links, since Linux 6.6\nvm: done",
        );
        let new = column(
            "host",
            "vm: up 99.0 6.18.1\nvm: begin a\nrunning 4 tests\ntest one ... ok\n\
             test two ... ok\ntest three ... FAILED\nvm: end 101\nvm: done",
        );
        let expected = "\
| kernel   | 6.1.0-50 (bookworm)      | 6.18.1 (host)           |
|----------|--------------------------|-------------------------|
| boot     | 4.8 s                    | –                       |
| a        | 2 passed, 2 skipped, 0 s | 2 passed, 1 FAILED, 0 s |
| a::four  | passed                   | no result               |
| a::three | skipped (1)              | FAILED                  |
| a::two   | skipped (1)              | passed                  |
| other    | fine                     | fine                    |

1. links, since Linux 6.6
6.18.1 (host): a::three failed
6.18.1 (host): a: 1 tests gave no result";
        assert_eq!(table(&[old, new]), expected);
    }

    /// Check that the modules of a program have a row each, without a time.
    #[test]
    fn rows_of_modules() {
        let column = column(
            "host",
            "vm: up 99.0 6.18.1\nvm: begin it\nrunning 3 tests\ntest a::b::one ... ok\n\
             test a::two ... ok\ntest c::three ... ok\nvm: end 0\nvm: done",
        );
        let expected = "\
| kernel | 6.18.1 (host) |
|--------|---------------|
| boot   | –             |
| it     | 3 passed, 0 s |
| it::a  | 2 passed      |
| it::c  | 1 passed      |
| other  | fine          |
";
        assert_eq!(table(&[column]), expected);
    }
}
