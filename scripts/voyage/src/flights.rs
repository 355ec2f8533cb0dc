//! The file of flights: its rows as messages, and the figures that the host keeps about them.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::api::{ApiError, Batch, Host, Problem};

/// The behaviour that takes the flights in.
pub const BOARD: &str = "flights.Board";
/// The kinds of objects that it keeps figures about, as the first part of their names, in the order of the names.
pub const KINDS: [&str; 3] = ["aircraft/", "airport/", "carrier/"];
/// How many objects are asked for their figures at once.
const FIGURES_AT_ONCE: usize = 500;

/// Why the file could not be read.
#[derive(thiserror::Error, Debug)]
pub enum FileError {
    /// It cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not CSV, or was cut short.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: csv::Error,
    },
    /// Its first line lacks a column.
    #[error("{} has no column {column:?}; the first line has to name the columns", path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The missing column.
        column: &'static str,
    },
    /// A value is not what its column holds.
    #[error("line {line} of {}: {column} is {value:?}, which is not a number", path.display())]
    NotANumber {
        /// The file.
        path: PathBuf,
        /// The line, the first being 1.
        line: u64,
        /// The column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
}

/// What is told about one flight: the arguments of the board's method `record`.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Flight {
    /// The carrier's code.
    pub carrier: String,
    /// The flight number.
    pub flight: i64,
    /// The aircraft, if it is known.
    pub tailnum: Option<String>,
    /// Where it left from.
    pub origin: String,
    /// Where it went.
    pub dest: String,
    /// How many minutes later than planned it arrived; none if it did not arrive there.
    pub arr_delay: Option<i64>,
    /// When it should have left, such as `2013-01-01T05:15`.
    pub scheduled: String,
}

/// Reads flights one after another. Line 1 is the header, so the first flight is on line 2.
pub struct FlightFile {
    path: PathBuf,
    reader: csv::Reader<Box<dyn Read + Send>>,
    columns: Columns,
    row: csv::StringRecord,
    line: u64,
}

struct Columns {
    year: usize,
    month: usize,
    day: usize,
    hour: usize,
    minute: usize,
    carrier: usize,
    flight: usize,
    tailnum: usize,
    origin: usize,
    dest: usize,
    arr_delay: usize,
}

impl FlightFile {
    /// Opens a file, compressed or not.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let mut reader = csv::Reader::from_reader(open_text(path)?);
        let header = reader.headers().map_err(|source| FileError::Read { path: path.to_owned(), source })?.clone();
        let column = |name: &'static str| {
            let place = header.iter().position(|column| column == name);
            place.ok_or_else(|| FileError::NoColumn { path: path.to_owned(), column: name })
        };
        let columns = Columns {
            year: column("year")?,
            month: column("month")?,
            day: column("day")?,
            hour: column("hour")?,
            minute: column("minute")?,
            carrier: column("carrier")?,
            flight: column("flight")?,
            tailnum: column("tailnum")?,
            origin: column("origin")?,
            dest: column("dest")?,
            arr_delay: column("arr_delay")?,
        };
        Ok(FlightFile { path: path.to_owned(), reader, columns, row: csv::StringRecord::new(), line: 1 })
    }

    /// The next flight and its line; none at the end.
    pub fn next_flight(&mut self) -> Result<Option<(u64, Flight)>, FileError> {
        let more = self.reader.read_record(&mut self.row);
        if !more.map_err(|source| FileError::Read { path: self.path.clone(), source })? {
            return Ok(None);
        }
        self.line += 1;
        let columns = &self.columns;
        let text = |column: usize| self.row.get(column).unwrap_or_default();
        let number = |column: usize, name: &'static str| {
            let value = text(column);
            value.parse::<i64>().map_err(|_| FileError::NotANumber {
                path: self.path.clone(),
                line: self.line,
                column: name,
                value: value.to_owned(),
            })
        };
        let scheduled = format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}",
            number(columns.year, "year")?,
            number(columns.month, "month")?,
            number(columns.day, "day")?,
            number(columns.hour, "hour")?,
            number(columns.minute, "minute")?,
        );
        let flight = Flight {
            carrier: text(columns.carrier).to_owned(),
            flight: number(columns.flight, "flight")?,
            tailnum: Some(text(columns.tailnum)).filter(|tail| *tail != "NA").map(str::to_owned),
            origin: text(columns.origin).to_owned(),
            dest: text(columns.dest).to_owned(),
            arr_delay: match text(columns.arr_delay) {
                "NA" => None,
                _ => Some(number(columns.arr_delay, "arr_delay")?),
            },
            scheduled,
        };
        Ok(Some((self.line, flight)))
    }
}

/// How many flights a file holds.
pub fn count_flights(path: &Path) -> Result<u64, FileError> {
    let mut reader = BufReader::with_capacity(256 * 1024, open_text(path)?);
    let mut lines = 0;
    loop {
        let bytes =
            reader.fill_buf().map_err(|source| FileError::Read { path: path.to_owned(), source: source.into() })?;
        if bytes.is_empty() {
            return Ok(u64::saturating_sub(lines, 1));
        }
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let count = bytes.len();
        reader.consume(count);
    }
}

fn open_text(path: &Path) -> Result<Box<dyn Read + Send>, FileError> {
    let opened = |source| FileError::Open { path: path.to_owned(), source };
    let mut file = BufReader::with_capacity(256 * 1024, File::open(path).map_err(opened)?);
    let compressed = file.fill_buf().map_err(opened)?.starts_with(&[0x1f, 0x8b]);
    Ok(if compressed { Box::new(flate2::bufread::MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// What an object answers to `figures`. The columns of `scripts/flights-figures`, which computes them independently.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Figures {
    flights: u64,
    arrivals: u64,
    delay_sum_min: i64,
    mean_delay_min: Option<String>,
    streak: i64,
    window: u64,
    window_sum_min: i64,
    alerting: bool,
    alerts: u64,
    last_alert: Option<String>,
}

/// Why the figures could not be printed.
#[derive(thiserror::Error, Debug)]
pub enum FiguresError {
    /// The host could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// An object did not answer.
    #[error("{object} did not tell its figures: {problem}")]
    Refused {
        /// The object.
        object: String,
        /// What the host said.
        problem: Problem,
    },
    /// An object answered with something else.
    #[error("the figures of {object} have another form: {source}")]
    Form {
        /// The object.
        object: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// They could not be written.
    #[error("cannot write the figures: {0}")]
    Write(#[from] io::Error),
}

/// Writes the figures of every carrier, airport and aircraft that the host keeps, one tab-separated line each, by name.
/// Returns how many there are.
pub fn write_figures(host: &mut Host, to: &mut dyn Write) -> Result<u64, FiguresError> {
    let mut count = 0;
    for kind in KINDS {
        let names: Vec<String> = host.list(kind)?.into_iter().map(|named| named.name).collect();
        for names in names.chunks(FIGURES_AT_ONCE) {
            let mut batch = Batch::default();
            for name in names {
                batch.push(None, name, "figures", &serde_json::json!({}));
            }
            let mut lines = Vec::with_capacity(names.len());
            host.batch(&batch, &mut |place, answer| lines.push((place, answer)))?;
            for (place, answer) in lines {
                let object = &names[place];
                let done = answer.map_err(|problem| FiguresError::Refused { object: object.clone(), problem })?;
                let figures = serde_json::from_value(done.result)
                    .map_err(|source| FiguresError::Form { object: object.clone(), source })?;
                write_line(to, object, &figures)?;
                count += 1;
            }
        }
    }
    Ok(count)
}

fn write_line(to: &mut dyn Write, name: &str, figures: &Figures) -> io::Result<()> {
    let Figures { flights, arrivals, delay_sum_min, streak, window, window_sum_min, alerts, .. } = figures;
    let mean = figures.mean_delay_min.as_deref().unwrap_or("-");
    let alerting = u8::from(figures.alerting);
    let last_alert = figures.last_alert.as_deref().unwrap_or("-");
    writeln!(
        to,
        "{name}\t{flights}\t{arrivals}\t{delay_sum_min}\t{mean}\t{streak}\t{window}\t{window_sum_min}\t{alerting}\t{alerts}\t{last_alert}"
    )
}

/// What `theseus rehearse --json --all-differences` reports, as far as it is about flights.
#[derive(Deserialize)]
struct Rehearsal {
    differences: Vec<Difference>,
}

#[derive(Deserialize)]
struct Difference {
    class: String,
    request_id: Option<String>,
    recorded: Ended,
    offered: Option<Ended>,
}

#[derive(Deserialize)]
struct Ended {
    result: Option<Vec<String>>,
}

impl Ended {
    /// The objects for which an alert was raised.
    fn alerts(&self) -> String {
        match self.result.as_deref() {
            None | Some([]) => "-".to_owned(),
            Some(names) => names.join(","),
        }
    }
}

/// Why the differences that a rehearsal found cannot be written.
#[derive(thiserror::Error, Debug)]
pub enum DifferencesError {
    /// What was read is no report, or not about flights.
    #[error("this is no report of a rehearsal of flights: {0}")]
    Form(#[from] serde_json::Error),
    /// A flight was not taken in by `voyage feed`, or with another `--ids`.
    #[error("the request id {id:?} is not that of a flight, `flight-LINE`")]
    NotAFlight {
        /// The id.
        id: String,
    },
    /// They cannot be written.
    #[error("cannot write the differences: {0}")]
    Write(#[from] io::Error),
}

/// Writes the flights that a rehearsal says would come out otherwise, as `flights-figures FILE rehearsal` does. Returns how many
/// there are.
pub fn write_differences(report: impl Read, to: &mut dyn Write) -> Result<u64, DifferencesError> {
    let Rehearsal { differences } = serde_json::from_reader(report)?;
    let mut count = 0;
    for Difference { class, request_id, recorded, offered } in differences {
        let Some(kind) = class.strip_prefix("different_") else { continue };
        let id = request_id.unwrap_or_default();
        let line = id.strip_prefix("flight-").filter(|line| line.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(line) = line else { return Err(DifferencesError::NotAFlight { id }) };
        let would = offered.map_or_else(|| "-".to_owned(), |offered| offered.alerts());
        writeln!(to, "{line}\t{kind}\t{}\t{would}", recorded.alerts())?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_written_as_the_figures_script_writes_them() {
        let ended = |names: &[&str]| serde_json::json!({ "ok": true, "result": names, "error": null });
        let one = |class: &str, id: &str, was: &[&str], would: &[&str]| serde_json::json!({ "class": class, "request_id": id, "recorded": ended(was), "offered": ended(would) });
        let report = serde_json::json!({ "counts": {}, "differences": [
            one("different_result", "flight-7", &[], &["carrier/UA", "airport/EWR"]),
            one("slower", "flight-8", &[], &[]),
            one("different_writes", "flight-9", &["carrier/UA"], &["carrier/UA"]),
        ] });
        let mut out = Vec::new();
        assert_eq!(write_differences(report.to_string().as_bytes(), &mut out).unwrap(), 2);
        let expected = "7\tresult\t-\tcarrier/UA,airport/EWR\n9\twrites\tcarrier/UA\tcarrier/UA\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let stray = serde_json::json!({ "differences": [one("different_result", "r-1", &[], &[])] }).to_string();
        assert!(write_differences(stray.as_bytes(), &mut Vec::new()).is_err());
    }

    const EXCERPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/flights/data/flights-excerpt.csv.gz");

    #[test]
    fn reads_the_excerpt() {
        let mut file = FlightFile::open(Path::new(EXCERPT)).unwrap();
        let (line, first) = file.next_flight().unwrap().unwrap();
        assert_eq!(line, 2);
        assert_eq!(
            first,
            Flight {
                carrier: "UA".to_owned(),
                flight: 1545,
                tailnum: Some("N14228".to_owned()),
                origin: "EWR".to_owned(),
                dest: "IAH".to_owned(),
                arr_delay: Some(11),
                scheduled: "2013-01-01T05:15".to_owned(),
            }
        );
        let mut flights = 1;
        let mut cancelled = 0;
        let mut last = 0;
        while let Some((line, flight)) = file.next_flight().unwrap() {
            flights += 1;
            cancelled += u64::from(flight.arr_delay.is_none());
            last = line;
        }
        assert_eq!((flights, last), (4_000, 4_001));
        assert!(cancelled > 0, "some flights of the excerpt did not arrive");
        assert_eq!(count_flights(Path::new(EXCERPT)).unwrap(), 4_000);
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flights.csv");
        std::fs::write(&path, "year,month,day\n2013,1,1\n").unwrap();
        let error = FlightFile::open(&path).err().unwrap().to_string();
        assert!(error.contains("no column \"hour\""), "{error}");
        let text =
            "year,month,day,hour,minute,carrier,flight,tailnum,origin,dest,arr_delay\n2013,1,1,5,x,UA,1,N1,EWR,IAH,3\n";
        std::fs::write(&path, text).unwrap();
        let error = FlightFile::open(&path).unwrap().next_flight().unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("minute is \"x\""), "{error}");
        std::fs::write(&path, &std::fs::read(EXCERPT).unwrap()[..50_000]).unwrap();
        let mut file = FlightFile::open(&path).unwrap();
        let error = loop {
            match file.next_flight() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a file that was cut short ended as if it were whole"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, FileError::Read { .. }), "{error}");
    }
}
