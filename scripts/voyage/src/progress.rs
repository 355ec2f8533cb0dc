//! How far a long job has come: a bar on a terminal, and a plain line every few seconds elsewhere.

use std::{
    cell::Cell,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one job, shown on standard error.
#[derive(Debug)]
pub struct Progress {
    label: &'static str,
    total: u64,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    /// When and where the line before was printed.
    Lines(Cell<Option<(Instant, u64)>>),
}

impl Progress {
    /// Begins to show a job of `total` steps; 0 if that is not known.
    pub fn new(label: &'static str, total: u64) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            let (bar, template) = match total {
                0 => (ProgressBar::no_length(), "{prefix} {spinner} {human_pos} {per_sec} {elapsed}"),
                _ => (
                    ProgressBar::new(total),
                    "{prefix} {wide_bar:.cyan/blue} {human_pos}/{human_len} {per_sec} {eta} left",
                ),
            };
            let style = ProgressStyle::with_template(template).expect("the template is well formed");
            Shown::Bar(bar.with_style(style).with_prefix(label))
        } else {
            Shown::Lines(Cell::new(None))
        };
        Progress { label, total, shown }
    }

    /// Says how many steps are done.
    pub fn set(&self, done: u64) {
        match &self.shown {
            Shown::Bar(bar) => {
                if bar.position() == 0 {
                    // Steps that were done before, by an earlier run, are no measure of how fast this one is.
                    bar.reset_eta();
                }
                bar.set_position(done);
            }
            Shown::Lines(last) => {
                let Some((at, done_then)) = last.get() else { return last.set(Some((Instant::now(), done))) };
                let passed = at.elapsed();
                if passed < LINE_EVERY {
                    return;
                }
                last.set(Some((Instant::now(), done)));
                let rate = done.saturating_sub(done_then) as f64 / passed.as_secs_f64();
                match self.total {
                    0 => eprintln!("{} {done}, {rate:.0}/s", self.label),
                    total => {
                        let left_s = total.saturating_sub(done) as f64 / rate.max(1e-9);
                        eprintln!("{} {done}/{total}, {rate:.0}/s, {left_s:.0} s left", self.label);
                    }
                }
            }
        }
    }

    /// Prints a line above the bar.
    pub fn note(&self, line: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            Shown::Lines(_) => eprintln!("{line}"),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
