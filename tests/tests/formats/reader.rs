//! A reader of the two environments of an identity, written from `docs/formats.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use ciborium::Value;
use lmdb::{Cursor, Environment, EnvironmentFlags, Transaction};
use theseus_tests::Home;
use twox_hash::XxHash3_64;

use crate::{cddl::Rules, hex};

/// The databases of the object table.
const NUMBERED: [&str; 6] = ["objects", "names", "requests", "recent", "meta", "secondary"];

/// What has versions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    Object(u64),
    Name(String),
}

/// One version, as its transaction has it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Version {
    pub(crate) tid: u64,
    pub(crate) number: u64,
    pub(crate) previous: u64,
    pub(crate) jump: u64,
    /// None for null.
    pub(crate) content: Option<Value>,
}

/// What the history says.
pub(crate) struct Reader {
    /// In hexadecimal.
    pub(crate) identity: String,
    /// The first transaction as of which everything can be told.
    pub(crate) first: u64,
    /// The last transaction and the hash of its record.
    pub(crate) head: (u64, [u8; 32]),
    pub(crate) versions: BTreeMap<Key, Vec<Version>>,
    /// The methods that the host itself wrote.
    pub(crate) methods: BTreeSet<String>,
    /// How many records were read from the write-ahead log.
    pub(crate) logged: u64,
}

impl Reader {
    /// Reads and checks the whole history.
    pub(crate) fn read(home: &Home, rules: &Rules) -> Reader {
        let mut databases = databases(&home.file("identity/history"));
        let meta = databases.remove("meta").unwrap();
        let identity = &meta[&b"identity"[..]];
        assert_eq!(identity[16..], blake3::hash(&identity[..16]).as_bytes()[..8], "the id's checksum");
        let mut reader = Reader {
            identity: hex(&identity[..16]),
            first: 1,
            head: (0, [0; 32]),
            versions: BTreeMap::new(),
            methods: BTreeSet::new(),
            logged: 0,
        };
        if let Some(mark) = meta.get(&b"base"[..]) {
            reader.base(home, rules, unsealed(1, b"base", mark));
        }
        for (key, value) in databases.remove("batches").unwrap() {
            let last = u64::from_be_bytes(key.try_into().unwrap());
            // What was packed away may still be there.
            if last >= reader.first {
                reader.batch(rules, last, &value);
            }
        }
        assert!(databases.is_empty(), "not described: {:?}", databases.keys());
        let bytes = ciborium::from_reader::<u64, _>(unsealed(1, b"wal", &meta[&b"wal"[..]])).unwrap();
        reader.write_ahead_log(rules, &std::fs::read(home.file("identity/history/wal")).unwrap(), bytes);
        reader
    }

    /// Goes on with the records that are not among the others yet.
    fn write_ahead_log(&mut self, rules: &Rules, file: &[u8], bytes: u64) {
        assert_eq!(file.len() as u64, bytes, "the length of the log");
        let word = |sector: &[u8], at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().unwrap());
        let half = |sector: &[u8], at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().unwrap()) as usize;
        let mut start = 0;
        loop {
            let mut value: Vec<u8> = Vec::new();
            let first = &file[start..][..512];
            for (place, sector) in file[start..].chunks(512).enumerate() {
                if sector.iter().all(|byte| *byte == 0) || sector[8..28] != first[8..28] || half(sector, 28) != place {
                    break;
                }
                let seal = XxHash3_64::oneshot_with_seed((start / 512 + place) as u64, &sector[8..]);
                assert_eq!(word(sector, 0), seal, "the seal of sector {place} behind byte {start}");
                value.extend_from_slice(&sector[32..]);
                if value.len() >= half(first, 24) {
                    break;
                }
            }
            let (last, length) = (word(first, 8), half(first, 24));
            if value.len() < length || length == 0 || last <= self.head.0 {
                break;
            }
            assert_eq!(first[16..24], value[..8], "the first bytes of the hash");
            assert!(value[length..].iter().all(|byte| *byte == 0), "zeros after the value");
            self.batch(rules, last, &value[..length]);
            self.logged += 1;
            start = (start + value.len() / 480 * 512).next_multiple_of(4096);
        }
    }

    /// Begins with the base.
    fn base(&mut self, home: &Home, rules: &Rules, mark: &[u8]) {
        let mark = rules.check("base-mark", mark);
        let fields = mark.as_array().unwrap();
        let number = |value: &Value| u64::try_from(value.as_integer().unwrap()).unwrap();
        let before = number(&fields[0]);
        let tables = databases(&home.file(&format!("identity/base/{before}")));
        let mut hasher = blake3::Hasher::new();
        for (db, name) in (0..).zip(NUMBERED) {
            for (key, value) in &tables[name] {
                for part in [key, value] {
                    hasher.update(&u32::try_from(part.len()).unwrap().to_le_bytes()).update(part);
                }
                let body = unsealed(db, key, value);
                let key = match name {
                    "objects" => Key::Object(u64::from_be_bytes(key[..].try_into().unwrap())),
                    "names" => Key::Name(String::from_utf8(key.clone()).unwrap()),
                    "requests" => continue,
                    _ => {
                        assert_eq!((name, &key[..]), ("meta", &b"reached"[..]));
                        assert_eq!(number(&rules.check("reached-note", body).as_array().unwrap()[0]), before);
                        continue;
                    }
                };
                let row = rules.check(&format!("{name}-row"), body);
                self.base_row(key, row.as_array().unwrap());
            }
        }
        assert_eq!(hasher.finalize().as_bytes()[..], fields[2].as_bytes().unwrap()[..], "the digest of the base");
        let head = fields[1].as_bytes().unwrap()[..].try_into().unwrap();
        (self.first, self.head) = (before, (before, head));
    }

    /// Takes a version from the base. Of those before it only the transactions are known that it points to.
    fn base_row(&mut self, key: Key, row: &[Value]) {
        let numbers = |value: &Value| u64::try_from(value.as_integer().unwrap()).unwrap();
        let [tid, number, previous] = [0, 1, 2].map(|place: usize| numbers(&row[place]));
        let gone = Version { tid: 0, number: 0, previous: 0, jump: 0, content: None };
        let mut versions = vec![gone; number as usize];
        let (mut at, mut jump) = (jump_number(number), 0);
        for (place, spine) in row[3].as_array().unwrap().iter().map(numbers).enumerate() {
            versions[at as usize - 1].tid = spine;
            jump = if place == 0 { spine } else { jump };
            at = jump_number(at);
        }
        assert_eq!(at, 0, "the spine of {key:?} has all jumps");
        if number > 1 {
            let before = &mut versions[number as usize - 2].tid;
            assert!([0, previous].contains(before), "{key:?}");
            *before = previous;
        }
        let content = (!row[4].is_null()).then(|| row[4].clone());
        *versions.last_mut().unwrap() = Version { tid, number, previous, jump, content };
        self.versions.insert(key, versions);
    }

    fn batch(&mut self, rules: &Rules, last: u64, value: &[u8]) {
        let (hash, rest) = value.split_first_chunk::<32>().unwrap();
        let count = little(&rest[rest.len() - 4..]) as usize;
        let (record, index) = rest.split_at(rest.len() - 4 - 12 * count - 4);
        assert_eq!(blake3::hash(record).as_bytes(), hash, "the hash of the record that ends with {last}");
        let value = rules.check("record", record);
        let fields = value.as_array().unwrap();
        let number = |place: usize| u64::try_from(fields[place].as_integer().unwrap()).unwrap();
        assert_eq!((number(1), number(2)), (self.head.0 + 1, last));
        assert_eq!(fields[6].as_bytes().unwrap()[..], self.head.1, "the link before {last}");
        let transactions = fields[7].as_array().unwrap();
        assert_eq!((transactions.len(), count), ((last - self.head.0) as usize, count));
        let (header, mut start) = (little(&index[..4]) as usize, 0);
        for (tid, (transaction, entry)) in (self.head.0 + 1..).zip(transactions.iter().zip(index[4..].chunks(12))) {
            let end = little(&entry[..4]) as usize;
            let item = &record[header + start..header + end];
            assert_eq!(XxHash3_64::oneshot_with_seed(tid, item), little(&entry[4..]), "the index, transaction {tid}");
            let bytes: Value = ciborium::from_reader(item).unwrap();
            assert_eq!(&bytes, transaction, "the index, transaction {tid}");
            self.transaction(rules, tid, transaction.as_bytes().unwrap());
            start = end;
        }
        self.head = (last, *hash);
    }

    fn transaction(&mut self, rules: &Rules, tid: u64, bytes: &[u8]) {
        let value = rules.check("transaction", bytes);
        let fields = value.as_array().unwrap();
        let method = fields[2].as_text().unwrap();
        if method.starts_with("theseus.") {
            let mut arguments = Vec::new();
            ciborium::into_writer(&fields[3], &mut arguments).unwrap();
            rules.check(method, &arguments);
            self.methods.insert(method.to_owned());
        }
        let number = |value: &Value| u64::try_from(value.as_integer().unwrap()).unwrap();
        for write in fields[7].as_array().unwrap() {
            let [object, number_, previous, jump, content] = &write.as_array().unwrap()[..] else { unreachable!() };
            let pointers = [number(number_), number(previous), number(jump)];
            self.version(Key::Object(number(object)), tid, pointers, content);
        }
        for naming in fields[8].as_array().unwrap() {
            let [name, number_, previous, jump, content] = &naming.as_array().unwrap()[..] else { unreachable!() };
            let pointers = [number(number_), number(previous), number(jump)];
            self.version(Key::Name(name.as_text().unwrap().to_owned()), tid, pointers, content);
        }
    }

    fn version(&mut self, key: Key, tid: u64, [number, previous, jump]: [u64; 3], content: &Value) {
        let content = (!content.is_null()).then(|| content.clone());
        let versions = self.versions.entry(key.clone()).or_default();
        let written = |number: u64| if number == 0 { 0 } else { versions[number as usize - 1].tid };
        let expected = (versions.len() as u64 + 1, written(number - 1), written(jump_number(number)));
        assert_eq!((number, previous, jump), expected, "{key:?} in transaction {tid}");
        versions.push(Version { tid, number, previous, jump, content });
    }

    /// The version as of a transaction, and how many were looked at.
    pub(crate) fn as_of(&self, key: &Key, at: u64) -> (Option<&Version>, u32) {
        let versions = &self.versions[key];
        let mut found = versions.last().unwrap();
        let mut steps = 1;
        while found.tid > at {
            let next = if found.jump > at { found.jump } else { found.previous };
            let Some(version) = versions.iter().find(|version| version.tid == next) else { return (None, steps) };
            (found, steps) = (version, steps + 1);
        }
        (Some(found), steps)
    }

    /// Checks the object table, which is as of its own transaction.
    pub(crate) fn check_table(&self, home: &Home, rules: &Rules) {
        let tables = databases(&home.file("identity/objects"));
        assert_eq!(tables.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(NUMBERED));
        let mut bodies: BTreeMap<&str, BTreeMap<&[u8], Value>> = BTreeMap::new();
        for (number, name) in (0..).zip(NUMBERED) {
            for (key, value) in &tables[name] {
                let body = unsealed(number, key, value);
                if name == "secondary" {
                    assert!(body.is_empty(), "a row of an index has only a key");
                    continue;
                }
                let rule = match (name, &key[..]) {
                    ("meta", key) if key.starts_with(b"index") => "index-note".to_owned(),
                    ("meta", key) => format!("{}-note", std::str::from_utf8(key).unwrap()),
                    _ => format!("{name}-row"),
                };
                bodies.entry(name).or_default().insert(key, rules.check(&rule, body));
            }
        }
        let reached = bodies["meta"][&b"reached"[..]].as_array().unwrap();
        let reached = u64::try_from(reached[0].as_integer().unwrap()).unwrap();
        self.check_index(&tables["secondary"], &bodies["meta"]);
        for (key, versions) in &self.versions {
            let row = match key {
                Key::Object(id) => bodies["objects"].get(&id.to_be_bytes()[..]),
                Key::Name(name) => bodies["names"].get(name.as_bytes()),
            };
            let newest = versions.iter().rfind(|version| version.tid <= reached);
            assert_eq!(row.is_some(), newest.is_some(), "{key:?}");
            let (Some(row), Some(newest)) = (row, newest) else { continue };
            let mut spine = Vec::new();
            let mut number = jump_number(newest.number);
            while number > 0 {
                spine.push(Value::from(versions[number as usize - 1].tid));
                number = jump_number(number);
            }
            let content = newest.content.clone().unwrap_or(Value::Null);
            let (tid, number, previous) = (newest.tid.into(), newest.number.into(), newest.previous.into());
            assert_eq!(*row, Value::Array(vec![tid, number, previous, Value::Array(spine), content]), "{key:?}");
        }
    }
}

impl Reader {
    /// The rows of the index of counters by their count are those that the objects ask for. The table has to have all.
    fn check_index(&self, rows: &BTreeMap<Vec<u8>, Vec<u8>>, meta: &BTreeMap<&[u8], Value>) {
        let notes: Vec<_> = meta.iter().filter(|(key, _)| key.starts_with(b"index")).collect();
        let [(key, note)] = &notes[..] else { panic!("there is one index: {notes:?}") };
        let note = note.as_array().unwrap();
        assert_eq!((note[0].as_text(), note[1].as_text()), (Some("counter.Counter"), Some("count")));
        assert_eq!(note[2], Value::Bool(true), "it is complete");
        let number = &key[b"index".len()..];
        let mut expected = BTreeSet::new();
        for (key, versions) in &self.versions {
            let (Key::Object(id), Some(content)) = (key, &versions.last().unwrap().content) else { continue };
            let record = content.as_array().unwrap();
            let slots = record[3].as_map().unwrap();
            let count = slots.iter().find(|(name, _)| name.as_text() == Some("count")).map(|(_, count)| count);
            if let (Some("counter.Counter"), Some(count)) = (record[0].as_text(), count) {
                let count = i64::try_from(count.as_integer().unwrap()).unwrap();
                // Integers of this size are floats; this home has no negative ones.
                let ordered = (count as f64).to_bits() | 1 << 63;
                expected.insert([number, &[2], &ordered.to_be_bytes(), &[0, 0], &id.to_be_bytes()].concat());
            }
        }
        let found: BTreeSet<_> = rows.keys().filter(|key| key.starts_with(number)).cloned().collect();
        assert!(!expected.is_empty());
        assert_eq!(found, expected);
    }
}

/// The document's rule: the number as a sum of terms 2^k - 1, always the largest that fits, without the last.
fn jump_number(number: u64) -> u64 {
    let mut rest = number;
    let mut last = 0;
    while rest > 0 {
        last = (1..=64).map(|k| u64::MAX >> (64 - k)).take_while(|term| *term <= rest).last().unwrap();
        rest -= last;
    }
    number - last
}

/// The body of a value, whose seal has to be right.
fn unsealed<'a>(database: u64, key: &[u8], value: &'a [u8]) -> &'a [u8] {
    let (seal, body) = value.split_first_chunk::<8>().unwrap();
    let seed = XxHash3_64::oneshot_with_seed(database, key);
    assert_eq!(little(seal), XxHash3_64::oneshot_with_seed(seed, body), "a seal in database {database}");
    body
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// All databases of an environment, by name, with all that is in them.
fn databases(folder: &Path) -> BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>> {
    let flags = EnvironmentFlags::READ_ONLY | EnvironmentFlags::NO_TLS;
    let environment = Environment::new().set_flags(flags).set_max_dbs(16).open(folder).unwrap();
    let all = |name: Option<&str>| {
        let database = environment.open_db(name).unwrap();
        let transaction = environment.begin_ro_txn().unwrap();
        let mut cursor = transaction.open_ro_cursor(database).unwrap();
        let entries = cursor.iter().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap());
        entries.collect::<BTreeMap<_, _>>()
    };
    let names = all(None).into_keys().map(|name| String::from_utf8(name).unwrap());
    names.map(|name| (name.clone(), all(Some(&name)))).collect()
}
