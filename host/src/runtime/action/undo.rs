//! What an undo did, as edges see it.

#![allow(missing_docs, reason = "fields are described where their type or variant is, as far as their names do not")]

use theseus_value::ObjectId;

use super::{Head, Tid};

/// What an undo did.
#[derive(Clone, PartialEq, Debug)]
pub struct UndoneView {
    /// Its own transaction; none if there was nothing to take back.
    pub tid: Option<Tid>,
    pub at: Head,
    /// The objects that are what they were before.
    pub restored: Vec<ObjectId>,
    /// Those that are gone, because they did not exist before.
    pub removed: Vec<ObjectId>,
    /// The names that stand for what they stood for before, or for nothing.
    pub names: Vec<String>,
    /// The names that objects which came back have no more.
    pub names_lost: Vec<LostNameView>,
    /// From which transaction on nobody looked for references to what is gone, and for the names of what came back.
    pub unchecked: Option<Tid>,
}

/// A name that an object had before it went, and that it did not get back with an undo.
#[derive(Clone, PartialEq, Debug)]
pub struct LostNameView {
    pub name: String,
    /// The object that came back without it.
    pub object: ObjectId,
    /// The object that has it instead; none if it was freed.
    pub holder: Option<ObjectId>,
}
