//! A watchdog that kills itself at a transition: `THESEUS_FALL_AT=accepted:before` or `...:after`. For the tests.

use std::process::ExitCode;

use clap::Parser;
use theseus_watchdog::{End, Moment, options::Options, run};

fn main() -> ExitCode {
    let fall_at = std::env::var("THESEUS_FALL_AT").expect("THESEUS_FALL_AT says where to fall");
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).format_timestamp_millis().init();
    let ended = run(&Options::parse(), &mut |_, to, moment| {
        let moment = if moment == Moment::Before { "before" } else { "after" };
        if fall_at == format!("{}:{moment}", to.name()) {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("a process may kill itself");
        }
    });
    match ended {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        Ok(End::Held) => ExitCode::from(3),
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
