//! Parses the command line, runs the command, maps its result to an exit code.

fn main() {}
