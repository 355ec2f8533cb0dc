//! The macros of `theseus-plugin`, which re-exports and explains them. Their output refers to that crate alone.

mod behavior;
mod data;
mod methods;
mod migrations;
mod plugin;
mod text;

use proc_macro::TokenStream;

/// Makes a struct's fields the slots of a behaviour.
///
/// `#[behavior(version = 1)]` goes on a struct with named fields (or none) that implements `Default`: a slot that an object lacks
/// takes the default's value. Field types need serde's `Serialize` and `DeserializeOwned`. The version goes up whenever the
/// fields change in a way that older slots do not fit; see [`macro@methods`] for `#[migrate]`.
#[proc_macro_attribute]
pub fn behavior(arguments: TokenStream, item: TokenStream) -> TokenStream {
    behavior::expand(arguments.into(), item.into()).into()
}

/// Makes the public functions of an impl block the methods of a behaviour.
///
/// - `pub fn name(&mut self, argument: Type, ...) -> Result<Type>` is a command, with `&self` it is a query;
/// - `cx: &mut Context` may come right after `self`, and is not an argument to callers;
/// - results are plain values or `Result`, whose error type has to turn into the kit's `Error`;
/// - other functions are helpers, and nobody can call them from outside.
///
/// `#[migrate(from = N)] fn f(old: Old) -> Result<Self>` reads the slots of version N, `#[migrate(to = N)] fn f(&self) ->
/// Result<Old>` writes them. `Old` is any type with serde that describes those slots as a map.
///
/// Further versions need not be told again how to become the newest: `#[migrate(from = 1, to = 2)] fn f(old: V1) -> Result<V2>` makes
/// of version 1 what a `#[migrate(from = 2)]` reads, and `#[migrate(from = 2, to = 1)] fn f(old: V2) -> Result<V1>` goes on from what a
/// `#[migrate(to = 2)]` gives.
#[proc_macro_attribute]
pub fn methods(arguments: TokenStream, item: TokenStream) -> TokenStream {
    methods::expand(arguments.into(), item.into()).into()
}

/// Makes a struct or an enum fit for slots, arguments and results.
///
/// It derives serde's `Serialize` and `Deserialize` by way of the kit, so that a plugin need not depend on serde itself. serde's
/// own attributes work as ever.
#[proc_macro_attribute]
pub fn data(arguments: TokenStream, item: TokenStream) -> TokenStream {
    data::expand(arguments.into(), item.into()).into()
}

/// Makes a crate a plugin: its manifest, its tables, and the symbol by which the host finds them.
///
/// ```ignore
/// plugin! {
///     name: "counter",
///     behaviors: [Counter],
///     // and, if wanted:
///     capabilities: ["request_upgrade"],
///     requires: ["ledger.Account" = "^1.2"], // behaviours of other plugins, and versions of those plugins
///     self_test: checks::self_test, // fn() -> Result<()>
///     retire: checks::retire,       // fn() -> Result<()>
/// }
/// ```
///
/// A behaviour is called `plugin.Type`; the plugin's version is the crate's.
#[proc_macro]
pub fn plugin(input: TokenStream) -> TokenStream {
    plugin::expand(input.into()).into()
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    /// The messages of the `compile_error!`s in an expansion.
    fn errors(expansion: proc_macro2::TokenStream) -> Vec<String> {
        let text = expansion.to_string();
        let messages = text.split("compile_error ! {").skip(1);
        messages.filter_map(|rest| rest.split('"').nth(1)).map(str::to_owned).collect()
    }

    #[track_caller]
    fn one_error(expansion: proc_macro2::TokenStream, part: &str) {
        let errors = errors(expansion);
        assert!(matches!(&*errors, [error] if error.contains(part)), "{errors:?} has to be one with {part:?}");
    }

    #[test]
    fn structs_that_are_no_behaviours() {
        let version = quote! { version = 1 };
        one_error(behavior::expand(quote! {}, quote! { struct A; }), "write #[behavior(version = 1)]");
        one_error(behavior::expand(quote! { version = 0 }, quote! { struct A; }), "a number from 1 on");
        one_error(behavior::expand(quote! { version = 1, x = 2 }, quote! { struct A; }), "write #[behavior");
        one_error(behavior::expand(version.clone(), quote! { struct A(u8); }), "slots have names");
        one_error(behavior::expand(version.clone(), quote! { struct A<T> { a: T } }), "no generic parameters");
        one_error(
            behavior::expand(version.clone(), quote! { struct A { #[cfg(test)] a: u8 } }),
            "cannot depend on cfg",
        );
        one_error(behavior::expand(version.clone(), quote! { enum A { B } }), "expected `struct`");
        assert!(errors(behavior::expand(version, quote! { struct A { a: u8 } })).is_empty());
    }

    #[test]
    fn functions_that_are_no_methods() {
        for (function, part) in [
            (quote! { pub async fn f(&self) {} }, "cannot be async"),
            (quote! { pub unsafe fn f(&self) {} }, "cannot be unsafe"),
            (quote! { pub extern "C" fn f(&self) {} }, "calling convention"),
            (quote! { pub fn f<T>(&self, t: T) {} }, "cannot be generic"),
            (quote! { pub fn f() {} }, "a helper is not `pub`"),
            (quote! { pub fn f(self) {} }, "takes `&self` (a query) or `&mut self`"),
            (quote! { pub fn f(&self, (a, b): (u8, u8)) {} }, "known to callers by its name"),
            (quote! { pub fn f(&self, a: impl Copy) {} }, "decoded to one type"),
            (quote! { pub fn f(&self, a: u8, cx: &mut Context) {} }, "right after `self`"),
            (quote! { #[cfg(test)] pub fn f(&self) {} }, "cannot depend on cfg"),
            (quote! { #[migrate] fn f(&self) {} }, "expected attribute arguments"),
            (quote! { #[migrate(of = 1)] fn f(&self) {} }, "write #[migrate(from = 1)]"),
            (quote! { #[migrate(from = 1)] fn f(&self) -> Old {} }, "goes on `fn(old: Old) -> Result<Self>`"),
            (quote! { #[migrate(from = 1)] fn f(old: Old) {} }, "goes on `fn(old: Old) -> Result<Self>`"),
            (quote! { #[migrate(to = 1)] fn f(&mut self) -> Old {} }, "goes on `fn(&self) -> Result<Old>`"),
            (quote! { #[migrate(to = 1)] fn f(&self, x: u8) -> Old {} }, "goes on `fn(&self) -> Result<Old>`"),
            (
                quote! { #[migrate(to = 1)] fn f(&self) -> Old {} #[migrate(to = 1)] fn g(&self) -> Old {} },
                "another migration for version 1",
            ),
            (
                quote! { #[migrate(from = 1)] fn f(o: Old) -> Self {} #[migrate(from = 1, to = 2)] fn g(o: Old) -> New {} },
                "another migration for version 1: #[migrate(from = 1)]",
            ),
            (quote! { #[migrate(from = 1, to = 2)] fn f(&self) -> New {} }, "goes on `fn(old: Old) -> Result<New>`"),
            (quote! { #[migrate(from = 1, to = 1)] fn f(old: Old) -> New {} }, "from one version to another"),
            (quote! { #[migrate(from = 1, from = 2)] fn f(old: Old) -> New {} }, "`from` is given twice"),
            (quote! { #[migrate(from = 1 to = 2)] fn f(old: Old) -> New {} }, "write #[migrate(from = 1)]"),
            (quote! { #[migrate(from = 1, to = 2)] fn f(old: Old) -> New {} }, "nothing reads version 2"),
            (quote! { #[migrate(from = 2, to = 1)] fn f(old: Old) -> New {} }, "nothing writes version 2"),
            (
                quote! {
                    #[migrate(from = 2, to = 1)] fn f(old: Old) -> New {}
                    #[migrate(from = 2)] fn g(old: Old) -> Self {}
                },
                "nothing writes version 2",
            ),
            (
                quote! {
                    #[migrate(to = 3)] fn f(&self) -> Old {}
                    #[migrate(from = 3, to = 1)] fn g(old: Old) -> New {}
                    #[migrate(from = 2, to = 1)] fn h(old: Old) -> New {}
                },
                "another migration for version 1: #[migrate(from = 3, to = 1)]",
            ),
        ] {
            one_error(methods::expand(quote! {}, quote! { impl A { #function } }), part);
        }
        one_error(methods::expand(quote! {}, quote! { impl B for A {} }), "not on that of a trait");
        one_error(methods::expand(quote! {}, quote! { impl<T> A<T> {} }), "no generic parameters");
        one_error(methods::expand(quote! { x }, quote! { impl A {} }), "takes no arguments");
        let two = quote! { impl A { pub fn f() {} pub async fn g(&self) {} } };
        assert_eq!(errors(methods::expand(quote! {}, two)).len(), 2, "all errors are shown at once");
        let helpers =
            quote! { impl A { fn f() {} async fn g<T>(self, t: T) {} pub(crate) fn h() {} const X: u8 = 1; } };
        assert!(errors(methods::expand(quote! {}, helpers)).is_empty());
    }

    #[test]
    fn declarations_that_are_no_plugins() {
        for (declaration, part) in [
            (quote! { behaviors: [A] }, "`name` is missing"),
            (quote! { name: "a" }, "`behaviors` is missing"),
            (quote! { name: "A", behaviors: [] }, "small letters"),
            (quote! { name: "a.b", behaviors: [] }, "small letters"),
            (quote! { name: "a", name: "b" }, "`name` is given twice"),
            (quote! { name: "a", behaviors: [x::A, y::A] }, "need different names"),
            (quote! { name: "a", version: "1" }, "plugin! knows name"),
        ] {
            one_error(plugin::expand(declaration), part);
        }
    }
}
