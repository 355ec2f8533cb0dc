//! `backup.json`: what belongs to a backup, with the digest of each file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{BackupError, publish};
use crate::identity::{Head, IdentityId, RecordHash, Tid};

/// The format that this code writes, and the only one that it reads.
const FORMAT: u64 = 1;

/// The longest manifest that is read, in bytes: hundreds of thousands of segments.
const BYTES_MAX: u64 = 256 << 20;

/// What the last line of the file begins with; the blake3 of all before it follows in hexadecimal.
const SEAL: &str = "blake3 ";

/// What a backup consists of.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u64,
    /// Whose backup it is.
    #[serde(with = "text")]
    pub identity: IdentityId,
    /// When it was last added to, in microseconds since the Unix epoch; 0 if nothing of it is whole yet.
    pub time_us: u64,
    /// What the first segment stands on, if the history was packed before the backup was begun.
    pub base: Option<BaseEntry>,
    /// The segments, in the order of their transactions.
    pub segments: Vec<SegmentEntry>,
    /// The plugin files that the records name and the store had.
    pub plugins: Vec<PluginEntry>,
    /// The content of `theseus.toml`, if there was one.
    pub settings: Option<String>,
}

/// The file of a base.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct BaseEntry {
    /// Its name.
    pub file: String,
    /// The last transaction that was packed away.
    pub tid: Tid,
    /// The hash of the record that ended with it.
    #[serde(with = "text")]
    pub head: RecordHash,
    /// The digest of its rows, as the history names it.
    #[serde(with = "text")]
    pub digest: RecordHash,
    /// How many rows it has.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// blake3 of the whole file.
    #[serde(with = "text")]
    pub blake3: RecordHash,
}

/// One segment file.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct SegmentEntry {
    /// Its name.
    pub file: String,
    /// Its first transaction.
    pub first: Tid,
    /// Its last transaction.
    pub last: Tid,
    /// The hash of its last record.
    #[serde(with = "text")]
    pub head: RecordHash,
    /// How many records it has.
    pub records: u64,
    /// Its length.
    pub bytes: u64,
    /// blake3 of the whole file.
    #[serde(with = "text")]
    pub blake3: RecordHash,
}

/// One plugin file, `plugins/DIGEST.so`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct PluginEntry {
    /// blake3 of the file, which is also its name.
    #[serde(with = "text")]
    pub digest: RecordHash,
    /// Its length.
    pub bytes: u64,
}

impl Manifest {
    /// Of a backup that has nothing yet.
    pub(super) fn empty(identity: IdentityId) -> Manifest {
        Manifest {
            format: FORMAT,
            identity,
            time_us: 0,
            base: None,
            segments: Vec::new(),
            plugins: Vec::new(),
            settings: None,
        }
    }

    /// Whether something of it is whole. Else a first backup was begun, and no more is known than whose it is.
    pub(super) fn has_begun(&self) -> bool {
        self.time_us != 0
    }

    fn file(folder: &Path) -> PathBuf {
        folder.join("backup.json")
    }

    /// Where the backup ends.
    pub fn head(&self) -> Head {
        self.segments.last().map_or_else(|| self.start(), |last| Head { tid: last.last, hash: last.head })
    }

    /// After which record it begins.
    pub fn start(&self) -> Head {
        self.base.as_ref().map_or_else(Head::default, BaseEntry::head)
    }

    /// How long its segments and its base are together, in bytes.
    pub fn bytes(&self) -> u64 {
        let base = self.base.as_ref().map_or(0, |base| base.bytes);
        base + self.segments.iter().map(|segment| segment.bytes).sum::<u64>()
    }

    /// How many records it has.
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }

    /// Reads the manifest of a folder; none if there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Manifest>, BackupError> {
        let path = Manifest::file(folder);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BackupError::io(&path)(error)),
        };
        let damaged = |place: &str, problem: String| BackupError::damaged(&path, place, problem);
        if length > BYTES_MAX {
            return Err(damaged("its end", format!("it has {length} bytes, more than any such file")));
        }
        let content = fs::read(&path).map_err(BackupError::io(&path))?;
        let sealed = unseal(&content).map_err(|problem| damaged("its last line", problem))?;
        let manifest: Manifest = serde_json::from_slice(sealed)
            .map_err(|error| damaged(&format!("line {}", error.line()), error.to_string()))?;
        if manifest.format != FORMAT {
            let problem = format!("it has format {}, and this program reads {FORMAT}", manifest.format);
            return Err(damaged("`format`", problem));
        }
        if let Some(base) = &manifest.base
            && base.file != super::base::file_name(base.tid)
        {
            return Err(damaged("`base`", format!("`{}` is not the name of that base", base.file)));
        }
        for segment in &manifest.segments {
            if segment.file != super::segment::file_name(segment.first, segment.last) {
                let problem = format!("`{}` is not the name of that segment", segment.file);
                return Err(damaged(
                    &format!("the segment of transactions {} to {}", segment.first, segment.last),
                    problem,
                ));
            }
        }
        Ok(Some(manifest))
    }

    /// Replaces the manifest of a folder.
    pub(super) fn publish(&self, folder: &Path) -> Result<(), BackupError> {
        let mut text = serde_json::to_vec_pretty(self).expect("structs of strings and numbers always have a JSON form");
        text.push(b'\n');
        let seal = blake3::hash(&text).to_hex();
        text.extend_from_slice(format!("{SEAL}{seal}\n").as_bytes());
        publish(&Manifest::file(folder), &text)
    }
}

/// Takes the last line off, which has to be the digest of what stands before it; in words if it is not.
fn unseal(content: &[u8]) -> Result<&[u8], String> {
    let end = content.len().checked_sub(SEAL.len() + 2 * blake3::OUT_LEN + 1);
    let (text, seal) = end.map(|end| content.split_at(end)).ok_or("the file is too short to have one")?;
    let expected = format!("{SEAL}{}\n", blake3::hash(text).to_hex());
    if seal == expected.as_bytes() { Ok(text) } else { Err("it is not the digest of what stands before it".to_owned()) }
}

/// Ids and hashes as hexadecimal text.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::empty(IdentityId([7; 16]));
        manifest.settings = Some("[http]\n".to_owned());
        manifest.plugins.push(PluginEntry { digest: RecordHash([3; 32]), bytes: 5 });
        manifest.publish(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), Some(manifest));
        let path = Manifest::file(folder.path());
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &damaged).unwrap();
            let error = Manifest::read(folder.path()).unwrap_err();
            assert!(matches!(error, BackupError::Damaged { .. }), "bit {bit}: {error}");
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(Manifest::read(folder.path()).is_err(), "{length}");
        }
    }
}
