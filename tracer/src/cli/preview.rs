//! `--preview`: counts calls for a short time, to estimate what tracing them would cost.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tracer_common::Action;

use super::{Failure, runtime, selection::Selected, session::Session};
use faultline_engine::kernel::online_cpus;
use faultline_plan::ProbeId;
use faultline_spec::units::{duration_text, percent_text};

/// What was counted.
#[derive(Debug)]
pub(super) struct Preview {
    ran: Duration,
    loads: Vec<Load>,
}

/// Calls, and what tracing them would cost.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Load {
    #[serde(rename = "preview_calls")]
    calls: u64,
    #[serde(rename = "preview_calls_per_second")]
    per_second: f64,
    /// Of one CPU.
    estimated_overhead_percent: f64,
}

impl Preview {
    /// Counts the functions' calls for this time, or until the command or the processes end. The costs
    /// are those of `action`.
    pub(super) fn of(selected: &Selected, action: Action, time: Duration) -> Result<Self, Failure> {
        let costs = selected.host.costs();
        let runtime = runtime()?;
        let result = runtime.block_on(async {
            let session = Session::attach(selected.counting(), 0, None).await?;
            // Nothing is written, so no output can fail.
            let (_keep, mut output_ended) = mpsc::unbounded_channel();
            session.run(Some(time), false, &mut output_ended).await
        });
        runtime.shutdown_background();
        let ended = result?;
        let seconds = ended.ran.as_secs_f64().max(1e-9);
        let load = |(index, probe)| {
            let calls = ended.set.source.counters.hits(ProbeId(index as u32));
            let ns = costs.map_or(0, |costs| costs.of_call(probe, action));
            let per_second = calls as f64 / seconds;
            Load { calls, per_second, estimated_overhead_percent: per_second * ns as f64 / 1e7 }
        };
        let loads = selected.plan().probes.iter().enumerate().map(load).collect();
        Ok(Self { ran: ended.ran, loads })
    }

    /// The load of one function.
    pub(super) fn load_of(&self, id: ProbeId) -> Load {
        self.loads.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// The load of all functions.
    pub(super) fn load(&self) -> Load {
        self.loads.iter().fold(Load::default(), |sum, load| Load {
            calls: sum.calls + load.calls,
            per_second: sum.per_second + load.per_second,
            estimated_overhead_percent: sum.estimated_overhead_percent
                + load.estimated_overhead_percent,
        })
    }

    /// The whole load, as a sentence.
    pub(super) fn sentence(&self) -> String {
        let Load { calls, per_second, estimated_overhead_percent: overhead } = self.load();
        let cpus = online_cpus();
        format!(
            "{calls} calls in {} ({per_second:.0}/s): tracing them would take an estimated {} of one \
             CPU, {} of all {cpus}",
            duration_text(self.ran.as_nanos() as u64),
            percent_text(overhead),
            percent_text(overhead / cpus as f64),
        )
    }
}

impl Load {
    /// `, 1200 calls/s, 0.14 % of a CPU`; nothing where nothing was called.
    pub(super) fn text(self) -> String {
        match self.calls {
            0 => String::new(),
            _ => format!(
                ", {:.0} calls/s, {} of a CPU",
                self.per_second,
                percent_text(self.estimated_overhead_percent)
            ),
        }
    }
}
