//! The baseline: what Erlang takes to replace a module.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use super::SwapsError;
use crate::programs;

/// Runs the Erlang program that prints `NAME NUMBER` lines, in a folder for what it writes. None, with the reason on standard
/// error, where Erlang or the program is not there.
pub(super) fn figures(program: &Path, folder: &Path) -> Result<Option<BTreeMap<String, f64>>, SwapsError> {
    let Ok(program) = program.canonicalize() else {
        eprintln!("NO BASELINE: there is no {}; ERLANG_BASELINE names the program", program.display());
        return Ok(None);
    };
    for tool in ["erlc", "erl"] {
        if !is_installed(tool) {
            eprintln!("NO BASELINE: `{tool}` is not installed; `apt-get install erlang-base erlang-dev` brings it");
            return Ok(None);
        }
    }
    programs::run(Command::new("erlc").arg("-o").arg(folder).arg(&program))?;
    let module = program.file_stem().unwrap_or_default();
    let mut run = Command::new("erl");
    run.current_dir(folder).arg("-noshell").arg("-s").arg(module).arg("main");
    Ok(Some(parse(&programs::run(&mut run)?)))
}

fn is_installed(tool: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder: PathBuf| folder.join(tool)).any(|file| file.is_file())
}

fn parse(output: &str) -> BTreeMap<String, f64> {
    let figure = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    output.lines().filter_map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_line_by_line() {
        let figures = parse("swap_us 497.25\nhello\ncall_ns 3.4\n");
        assert_eq!(figures, [("swap_us".to_owned(), 497.25), ("call_ns".to_owned(), 3.4)].into_iter().collect());
    }

    #[test]
    fn what_is_not_there_is_no_error() {
        assert!(figures("/nonexistent/program.erl".as_ref(), "/tmp".as_ref()).unwrap().is_none());
    }
}
