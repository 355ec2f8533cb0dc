//! `#[migrate]`: functions that turn the slots of one version into those of another, and how they follow each other.
//!
//! Versions are read upwards and written downwards. A version is read by the one function that takes it, and what comes out by
//! the next, until it is the behaviour's own; it is written by the one function that gives it, from what the one before gave,
//! beginning with the behaviour's own. So there is one way, or an error.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{
    Error, FnArg, Ident, LitInt, Receiver, Result, ReturnType, Signature, Token, Type,
    parse::{Parse, ParseStream},
    spanned::Spanned,
};

use crate::methods::{Returns, plain};

const USAGE: &str = "write #[migrate(from = 1)], #[migrate(to = 1)], or #[migrate(from = 1, to = 2)] with two versions that are \
                     not the behaviour's own";

/// The migrations of a behaviour.
#[derive(Default)]
pub(crate) struct Migrations {
    functions: Vec<Migration>,
}

/// A function that migrates. A version left out is the behaviour's own.
struct Migration {
    ident: Ident,
    from: Option<u32>,
    to: Option<u32>,
    span: Span,
    returns: Returns,
}

/// `from = 1`, `to = 1`, or both.
pub(crate) struct Versions {
    from: Option<u32>,
    to: Option<u32>,
}

impl Parse for Versions {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut versions = Versions { from: None, to: None };
        loop {
            let key: Ident = input.parse().map_err(|error| Error::new(error.span(), USAGE))?;
            input.parse::<Token![=]>().map_err(|error| Error::new(error.span(), USAGE))?;
            let version = input.parse::<LitInt>().map_err(|error| Error::new(error.span(), USAGE))?.base10_parse()?;
            let given_before = match key.to_string().as_str() {
                "from" => versions.from.replace(version).is_some(),
                "to" => versions.to.replace(version).is_some(),
                _ => return Err(Error::new(key.span(), USAGE)),
            };
            if given_before {
                return Err(Error::new(key.span(), format!("`{key}` is given twice")));
            }
            if input.is_empty() {
                return Ok(versions);
            }
            input.parse::<Token![,]>().map_err(|error| Error::new(error.span(), USAGE))?;
        }
    }
}

impl Migration {
    /// Whether it serves to read versions; else it serves to write them.
    fn reads(&self) -> bool {
        match (self.from, self.to) {
            (Some(from), Some(to)) => from < to,
            (from, _) => from.is_some(),
        }
    }

    fn attribute(&self) -> String {
        match (self.from, self.to) {
            (Some(from), Some(to)) => format!("#[migrate(from = {from}, to = {to})]"),
            (Some(from), None) => format!("#[migrate(from = {from})]"),
            (None, to) => format!("#[migrate(to = {})]", to.unwrap_or_default()),
        }
    }
}

impl Migrations {
    /// Takes a function up.
    pub(crate) fn add(&mut self, signature: &Signature, Versions { from, to }: Versions, span: Span) -> Result<()> {
        plain(signature)?;
        let (ident, returns) = (signature.ident.clone(), Returns::of(&signature.output));
        let migration = Migration { ident, from, to, span, returns };
        let attribute = migration.attribute();
        let returns_something = matches!(signature.output, ReturnType::Type(..));
        let shared = |receiver: &&Receiver| receiver.reference.is_some() && receiver.mutability.is_none();
        let (fits, form) = match (from, to) {
            (None, _) => (signature.receiver().filter(shared).is_some(), "fn(&self) -> Result<Old>"),
            (_, None) => (matches!(signature.inputs.first(), Some(FnArg::Typed(_))), "fn(old: Old) -> Result<Self>"),
            _ => (matches!(signature.inputs.first(), Some(FnArg::Typed(_))), "fn(old: Old) -> Result<New>"),
        };
        if !fits || signature.inputs.len() != 1 || !returns_something {
            return Err(Error::new(signature.span(), format!("{attribute} goes on `{form}`")));
        }
        if from.is_some() && from == to {
            return Err(Error::new(span, "a migration leads from one version to another"));
        }
        // Each version is taken by one function that reads, and given by one that writes.
        let same_end = |other: &&Migration| {
            other.reads() == migration.reads()
                && if migration.reads() { other.from == migration.from } else { other.to == migration.to }
        };
        if let Some(other) = self.functions.iter().find(same_end) {
            let version = if migration.reads() { from } else { to }.unwrap_or_default();
            let message = format!("there is another migration for version {version}: {}", other.attribute());
            return Err(Error::new(span, message));
        }
        self.functions.push(migration);
        Ok(())
    }

    /// Finds versions that lead nowhere.
    pub(crate) fn check(&self) -> Result<()> {
        for migration in &self.functions {
            let (Some(from), Some(to)) = (migration.from, migration.to) else { continue };
            let problem = if migration.reads() && self.reader_of(to).is_none() {
                format!(
                    "nothing reads version {to}, which comes out here: add a #[migrate(from = {to})]; or if {to} is the behaviour's own, \
                     say #[migrate(from = {from})] and return `Self`"
                )
            } else if !migration.reads() && self.writer_of(from).is_none() {
                format!(
                    "nothing writes version {from}, which is needed here: add a #[migrate(to = {from})]; or if {from} is the behaviour's \
                     own, say #[migrate(to = {to})] and take `&self`"
                )
            } else {
                continue;
            };
            return Err(Error::new(migration.span, problem));
        }
        Ok(())
    }

    fn reader_of(&self, version: u32) -> Option<&Migration> {
        self.functions.iter().find(|it| it.reads() && it.from == Some(version))
    }

    fn writer_of(&self, version: u32) -> Option<&Migration> {
        self.functions.iter().find(|it| !it.reads() && it.to == Some(version))
    }

    /// The versions that are read, in order.
    pub(crate) fn read_versions(&self) -> Vec<u32> {
        sorted(self.functions.iter().filter(|it| it.reads()).filter_map(|it| it.from))
    }

    /// The versions that are written, in order.
    pub(crate) fn written_versions(&self) -> Vec<u32> {
        sorted(self.functions.iter().filter(|it| !it.reads()).filter_map(|it| it.to))
    }

    /// The functions that read a version, one after another.
    fn reading(&self, version: u32) -> Vec<&Migration> {
        let first = self.reader_of(version);
        std::iter::successors(first, |it| self.reader_of(it.to?)).collect()
    }

    /// The functions that write a version, one after another.
    fn writing(&self, version: u32) -> Vec<&Migration> {
        let last = self.writer_of(version);
        let mut functions: Vec<_> = std::iter::successors(last, |it| self.writer_of(it.from?)).collect();
        functions.reverse();
        functions
    }

    /// Checks of the behaviour `ty` that only the compiler can make.
    pub(crate) fn assertions(&self, ty: &Type) -> TokenStream {
        let assertions = self.functions.iter().map(|migration| {
            let versions = migration.from.into_iter().chain(migration.to);
            quote_spanned! { migration.span =>
                const _: () = ::core::assert!(
                    #(#versions != <#ty as ::theseus_plugin::__private::Slots>::SCHEMA)&&*,
                    "a migration names other versions than the behaviour's own, which is the one that it leaves out",
                );
            }
        });
        quote! { #(#assertions)* }
    }

    /// The function of the behaviour's table.
    pub(crate) fn function(&self) -> TokenStream {
        let guard = quote! { if own == <Self as ::theseus_plugin::__private::Slots>::SCHEMA };
        let reads = self.read_versions().into_iter().map(|version| {
            let steps = self.reading(version).into_iter().map(|Migration { ident, returns, .. }| {
                let value = returns.value_of(quote! { Self::#ident(slots) });
                quote! { let slots = #value; }
            });
            quote! {
                (#version, own) #guard => {
                    let slots = ::theseus_plugin::__private::read_old(slots, #version)?;
                    #(#steps)*
                    let object: Self = slots;
                    ::theseus_plugin::__private::save_migrated(&object, out)
                }
            }
        });
        let writes = self.written_versions().into_iter().map(|version| {
            let steps = self.writing(version).into_iter().map(|Migration { ident, returns, from, .. }| {
                let value = returns.value_of(match from {
                    Some(_) => quote! { Self::#ident(slots) },
                    None => quote! { Self::#ident(&object) },
                });
                quote! { let slots = #value; }
            });
            quote! {
                (own, #version) #guard => {
                    let (object, _) = <Self as ::theseus_plugin::__private::Slots>::load(slots, &mut |_| {})?;
                    #(#steps)*
                    ::theseus_plugin::__private::write_old(&slots, out)
                }
            }
        });
        let unused = self.functions.is_empty().then(|| quote! { let _ = (slots, out); });
        quote! {
            fn migrate(
                from: u32,
                to: u32,
                slots: &[u8],
                out: &mut ::theseus_plugin::__private::RVec<u8>,
            ) -> ::core::result::Result<(), ::theseus_plugin::__private::Error> {
                #unused
                match (from, to) {
                    #(#reads)*
                    #(#writes)*
                    _ => ::core::result::Result::Err(::theseus_plugin::__private::no_such_migration(from, to)),
                }
            }
        }
    }
}

fn sorted(versions: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut versions: Vec<_> = versions.collect();
    versions.sort_unstable();
    versions
}
