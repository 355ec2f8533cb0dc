//! The watchdog as a program.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use theseus_watchdog::{End, options::Options, run};

fn main() -> ExitCode {
    let options = Options::parse();
    let environment = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(environment)
        .format(|line, record| {
            let (time, level) = (line.timestamp_millis(), record.level());
            writeln!(line, "{time} {level:<5} watchdog: {}", record.args())
        })
        .init();
    match run(&options, &mut |_, _, _| {}) {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        Ok(End::Held) => ExitCode::from(3),
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
