//! Traces a function of another process for some seconds and counts another: who calls it, with what.
//!
//! `sudo target/debug/examples/watch PID 'libc:write(fd: i32, _, n: u64)' 'libc:malloc'`

use std::{env, error::Error, thread, time::Duration};

use faultline_engine::{
    Action, Host, Options, Pid, Tracer,
    collect::{decode::EventKind, events, tables::calls},
    request::{Request, Selection},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: watch PID TRACED_PROBE COUNTED_PROBE");
    let pid: Pid = next()?.parse()?;
    let request = |text: String, action| {
        let request = Request::parse(&text, action)?;
        Ok::<_, Box<dyn Error>>(Request { selection: Selection::Pids(vec![pid]), ..request })
    };
    let (traced, counted) = (request(next()?, Action::Events)?, request(next()?, Action::Count)?);

    let host = Host::detect();
    // One line an event, as it comes.
    let handlers = events::each(|event| {
        if matches!(event.kind, EventKind::Entry) {
            let values: Vec<_> = event
                .values()
                .map(|(name, value)| match value {
                    Ok(value) => format!("{name}={value}"),
                    Err(errno) => format!("{name}=null ({errno:?})"),
                })
                .collect();
            println!("{}: {}({})", event.tid, event.probe.label, values.join(", "));
        }
    });
    let tracer = Tracer::start(Options { handlers: Some(handlers), ..Options::new(host) })?;
    let traced = tracer.trace(vec![traced])?;
    let counted = tracer.trace(vec![counted])?;
    thread::sleep(Duration::from_secs(2));
    let stopped = tracer.stop(None, &Default::default()).blocking_recv()?;

    println!("{} of {} events written", traced.delivered(), traced.hits());
    for calls in calls(&counted, host.costs().as_ref()) {
        println!("{} calls of {}", calls.hits, calls.label);
    }
    println!("detached in {:?}", stopped.released.report.took);
    Ok(())
}
