//! Where the walk begins if history was packed away: with the rows of the base, which have to be those that the history names.

use std::sync::Arc;

use theseus_value::ObjectId;

use super::{
    super::{
        BaseDigest, ObjectRecord, StorageError, Tid,
        base::hash_row,
        history::HistoryView,
        lmdb::Db,
        table::{NAMES, OBJECTS, REQUESTS, RequestRow, read_row, unseal},
        version::Versioned,
    },
    DAMAGE_MAX, Damage,
    requests::Request,
    walk::Walk,
};

impl Walk {
    /// Takes up what the base says, if there is one; answers how many rows it has.
    pub(super) fn begin(&mut self, view: &HistoryView, oldest_request: Tid) -> Result<u64, StorageError> {
        self.requests.from = oldest_request;
        let Some((mark, base)) = view.base_rows()? else { return Ok(0) };
        let (mut hasher, mut rows) = (blake3::Hasher::new(), 0);
        let walked = base.every_entry(|db, key, value| {
            rows += 1;
            hash_row(&mut hasher, key, value);
            if let Err(problem) = self.base_row(db, key, value) {
                self.damage.push(Damage { place: format!("the base, row {rows}"), problem });
            }
            Ok(self.damage.len() < DAMAGE_MAX)
        });
        match walked {
            Err(StorageError::Damaged { place, problem, .. }) => {
                self.damage.push(Damage { place: format!("the base, {place}"), problem });
            }
            walked => walked?,
        }
        let digest = BaseDigest(*hasher.finalize().as_bytes());
        if digest != mark.digest && self.damage.len() < DAMAGE_MAX {
            let problem = format!("its rows have the digest {digest}, but it was put in force as {}", mark.digest);
            self.damage.push(Damage { place: "the base".to_owned(), problem });
        }
        self.broken = !self.damage.is_empty();
        self.requests.list.sort_unstable_by_key(|request| request.tid);
        self.head = mark.head;
        self.base = Some(mark);
        Ok(rows)
    }

    fn base_row(&mut self, db: Db, key: &[u8], value: &[u8]) -> Result<(), String> {
        match db {
            OBJECTS => {
                let object = ObjectId::of_row_key(key).ok_or("its key is malformed")?.into_owned();
                let row = read_row::<Arc<ObjectRecord>>(db, key, value)?;
                self.graph.base_object(object, &row).map_err(|error| error.to_string())?;
            }
            NAMES => {
                let name = str::of_row_key(key).ok_or("its key is malformed")?;
                self.graph.base_name(&name, &read_row::<ObjectId>(db, key, value)?);
            }
            REQUESTS => {
                let body = unseal(db, key, value)?;
                let row = RequestRow::decode(body).map_err(|error| error.to_string())?;
                if row.tid >= self.requests.from {
                    self.requests.list.push(Request::of(row.tid, key, body));
                }
            }
            _ => drop(unseal(db, key, value)?),
        }
        Ok(())
    }
}
