//! What can be asked of an identity whose host is not running.

use std::{
    fs,
    time::{Duration, Instant},
};

pub use crate::identity::Resumption;

use super::{
    OpenError,
    action::{
        Action, ActionError, Answer, Damage, KeptHeadFound, KeptHeadView, PluginState, PluginView, PluginsView,
        RepairReport, StatusView, VerifyReport, codes,
    },
    finding,
    host::{self, VERSION},
    owner::{OwnerError, OwnerLock},
    views,
};
use crate::{
    config::Config,
    exec::{self, PluginSet},
    home::Home,
    identity::{self, Identity, Opened, Progress, Reader, StorageError, Verification, VerifyOptions},
    plugin::{self, Digest, Store},
    restart::hold,
    swap,
};

/// Makes an empty identity; answers its id.
///
/// # Errors
///
/// If there is one already, or the storage fails.
pub fn init(home: &Home, config: &Config) -> Result<String, OpenError> {
    let place = host::place(home, config);
    let exists = || OpenError::Exists { home: home.clone() };
    if Identity::is_there(&place)? {
        return Err(exists());
    }
    let _owner = OwnerLock::take(home)?;
    if Identity::is_there(&place)? {
        return Err(exists());
    }
    make_folders(home)?;
    Ok(Identity::create(&place)?.to_string())
}

/// Makes what a home has beside its identity.
pub(super) fn make_folders(home: &Home) -> Result<(), StorageError> {
    for folder in [home.plugin_store(), home.run(), home.update(), home.trust()] {
        fs::create_dir_all(&folder).map_err(|source| StorageError::Io { path: folder, source })?;
    }
    Ok(())
}

/// Answers `Get`, `List`, `History`, `Plugins` and `Status` from the files. Nothing is written.
///
/// # Errors
///
/// If a host has the identity, if there is none, or as the action itself fails.
pub fn perform(home: &Home, action: Action) -> Result<Answer, ActionError> {
    let config = Config::load(home).map_err(|error| views::error(codes::BAD_SETTINGS, error.to_string()))?;
    identity::limit_views(Duration::from_millis(config.identity.view_ms_max));
    let place = host::place(home, &config);
    Identity::expect_there(&place).map_err(views::storage)?;
    let _readers = OwnerLock::share(home).map_err(|error| match error {
        OwnerError::Owned { .. } => views::error(codes::IDENTITY_IN_USE, error.to_string()),
        OwnerError::Io { .. } => views::error("storage", error.to_string()),
    })?;
    let Opened { identity, resume } = Identity::open(&place, true).map_err(views::storage)?;
    let mut reader = Reader::new(identity.clone());
    let trials = || {
        let memory = swap::Memory::read(&identity).map_err(views::storage)?;
        Ok(super::trials::view(&memory, &config.plugins, None))
    };
    match action {
        Action::Get { object, at } => views::object(&mut reader, &object, at),
        Action::List { prefix, after, limit, at } => views::names(&mut reader, &prefix, after, limit, at),
        Action::History { object, from, limit } => views::history(&mut reader, object.as_ref(), from, limit),
        Action::Messages { target, which, after, limit } => {
            finding::messages(&mut reader, target.as_ref(), which, after.as_deref(), limit)
        }
        Action::Find { behavior, slot, condition, after, limit } => {
            finding::find(&mut reader, behavior.as_deref(), &slot, &condition, after.as_deref(), limit)
        }
        Action::Indexes => finding::indexes(&mut reader),
        Action::Plugins => Ok(Answer::Plugins(PluginsView {
            plugins: plugins(home, &resume.generations),
            trials: trials()?,
            ..PluginsView::default()
        })),
        Action::Status => Ok(Answer::Status(StatusView {
            identity: identity.id().to_string(),
            head: views::head(identity.head()),
            incarnation: resume.incarnation.0,
            uptime_ms: 0,
            http: None,
            host_version: VERSION.to_owned(),
            abi_version: theseus_abi::ABI_VERSION,
            healthy: false,
            trouble: Some("no host is running".to_owned()),
            objects: resume.objects(),
            messages_waiting: exec::count_messages(resume.census()).0,
            messages_set_aside: exec::count_messages(resume.census()).1,
            plugins: plugins(home, &resume.generations),
            trials: trials()?,
            update: None,
            storage: views::storage_room(identity.room().ok(), None),
        })),
        _ => Err(views::error(codes::BAD_REQUEST, "this needs a running host: start one with `theseus run`")),
    }
}

/// The plugins that the next host will load, as far as their files say.
fn plugins(home: &Home, generations: &[(String, [u8; 32])]) -> Vec<PluginView> {
    let store = Store::open(&home.plugin_store()).ok();
    let mut generations = generations.to_vec();
    // The history has them in the order of its encoding; a running host lists them by name.
    generations.sort();
    generations
        .iter()
        .map(|(name, digest)| {
            let digest = Digest::from_bytes(*digest);
            let staged = store.as_ref().and_then(|store| store.fetch(digest).ok());
            let manifest = staged.and_then(|staged| plugin::inspect_staged(&staged).ok()).map(|it| it.manifest);
            let behaviors = manifest.iter().flat_map(|manifest| &manifest.behaviors);
            let (name, is_fallback) = PluginSet::recorded_name(name);
            PluginView {
                name: name.to_owned(),
                version: manifest.as_ref().map_or_else(|| "?".to_owned(), |manifest| manifest.version.clone()),
                digest: digest.to_string(),
                state: if is_fallback { PluginState::Fallback } else { PluginState::Active },
                behaviors: behaviors.map(|behavior| (behavior.name.clone(), behavior.schema)).collect(),
                migrations: Vec::new(),
            }
        })
        .collect()
}

/// Has the watchdog take no restart cycle up until [`resume`]. With or without a running host.
///
/// # Errors
///
/// If that cannot be made durable.
pub fn hold(home: &Home, reason: &str) -> Result<(), OpenError> {
    hold::hold(home.path(), reason).map_err(|error| OpenError::Home { problem: error.to_string() })
}

/// Lets restart cycles go on; answers why they were held, or none if they were not.
///
/// # Errors
///
/// If the files cannot be used.
pub fn resume(home: &Home) -> Result<Option<String>, OpenError> {
    hold::resume(home.path()).map_err(|error| OpenError::Home { problem: error.to_string() })
}

/// A head that somebody kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptHead(identity::Head);

impl KeptHead {
    /// Of `TID:HASH`, as answers have it; none if that is something else.
    pub fn parse(text: &str) -> Option<KeptHead> {
        let (tid, hash) = text.split_once(':')?;
        Some(KeptHead(identity::Head { tid: identity::Tid(tid.parse().ok()?), hash: hash.parse().ok()? }))
    }
}

/// How to verify an identity.
pub struct Verify<'a> {
    /// To go on where a verification was interrupted, if one was: is told what becomes of that.
    pub resume: Option<&'a mut (dyn FnMut(Resumption) + Send)>,
    /// A head that is to be part of this history.
    pub kept_head: Option<KeptHead>,
    /// Is told how far it has come; answers whether to go on.
    pub progress: &'a mut (dyn FnMut(Progress) -> bool + Send),
}

/// Walks the whole identity, beside a running host or without one; none if it was told to stop. It can be gone on with then.
///
/// # Errors
///
/// If there is no identity or the storage fails; damage is part of the report.
pub fn verify(home: &Home, verify: Verify<'_>) -> Result<Option<VerifyReport>, OpenError> {
    let config = Config::load(home)?;
    identity::limit_views(Duration::from_millis(config.identity.view_ms_max));
    let started = Instant::now();
    let Verify { resume, kept_head, progress } = verify;
    let kept_head = kept_head.map(|KeptHead(head)| head);
    // For as long as the options live, which is shorter.
    let resume = resume.map(|tell| tell as &mut (dyn FnMut(Resumption) + Send));
    let state = home.verify_state();
    let options = VerifyOptions { state: Some(&state), resume, kept_head, progress };
    let found = match identity::verify_with(&host::place(home, &config), options)? {
        Verification::Done(found) => *found,
        Verification::Interrupted(_) => return Ok(None),
    };
    // What was begun before is done with. Where that cannot be removed, it is replaced by the next one.
    _ = fs::remove_file(&state);
    let kept_head = kept_head.zip(found.kept_head).map(|(kept, is)| {
        let found = match is.problem(kept, found.head) {
            None => KeptHeadFound::Part,
            Some(problem) if matches!(is, identity::KeptHead::Packed { .. }) => KeptHeadFound::Packed { problem },
            Some(problem) => KeptHeadFound::NotPart { problem },
        };
        KeptHeadView { head: views::head(kept), found }
    });
    Ok(Some(VerifyReport {
        identity: found.identity.to_string(),
        head: views::head(found.head),
        batches: found.batches,
        transactions: found.transactions,
        bytes: found.bytes,
        rows: found.rows,
        table_missing: found.table_missing,
        elapsed_ms: started.elapsed().as_millis() as u64,
        damage: found.damage.into_iter().map(|it| Damage { place: it.place, problem: it.problem }).collect(),
        dangling: found.dangling,
        dangling_listed: found.dangling_listed.into_iter().map(|it| (it.from, it.to)).collect(),
        resumed_at: found.resumed_at.map(|tid| tid.0),
        kept_head,
    }))
}

/// Makes the object table anew from the history, while no host runs. `progress` is told how many transactions are done, and the total,
/// and answers whether to go on; none if it said no, and then everything is as it was.
///
/// # Errors
///
/// If a host has the identity, if the history is damaged, or if the storage fails. Then everything is as it was.
pub fn repair(home: &Home, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Option<RepairReport>, OpenError> {
    let config = Config::load(home)?;
    let place = host::place(home, &config);
    Identity::expect_there(&place)?;
    let _owner = OwnerLock::take(home)?;
    let started = Instant::now();
    let Some(made) = identity::rebuild(&place, progress)? else { return Ok(None) };
    Ok(Some(RepairReport {
        head: views::head(made.head),
        transactions: made.transactions,
        objects: made.objects,
        elapsed_ms: started.elapsed().as_millis() as u64,
    }))
}
