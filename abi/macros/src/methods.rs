//! `#[methods]`: public functions become methods.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Error, FnArg, GenericArgument, Ident, ImplItem, ImplItemFn, ItemImpl, Pat, PathArguments, Result, ReturnType,
    Signature, Type, Visibility, spanned::Spanned,
};

use crate::{migrations::Migrations, text};

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        let error = Error::new(arguments.span(), "#[methods] takes no arguments").into_compile_error();
        return quote! { #error #item };
    }
    match syn::parse2::<ItemImpl>(item.clone()) {
        Ok(mut block) => {
            let behavior = behavior_impl(&mut block).unwrap_or_else(Error::into_compile_error);
            quote! { #block #behavior }
        }
        Err(error) => {
            let error = error.into_compile_error();
            quote! { #error #item }
        }
    }
}

/// What stands in an impl block, after its `#[migrate]` attributes were taken off.
#[derive(Default)]
struct Parts {
    methods: Vec<Method>,
    migrations: Migrations,
}

struct Method {
    ident: Ident,
    doc: String,
    is_command: bool,
    takes_context: bool,
    arguments: Vec<Argument>,
    returns: Returns,
}

struct Argument {
    name: String,
    ty: Type,
}

/// What a function returns.
pub(crate) struct Returns {
    /// Whether it is a `Result`.
    fallible: bool,
    /// The type of the value, in a `Result` too.
    value: String,
}

fn behavior_impl(block: &mut ItemImpl) -> Result<TokenStream> {
    if let Some((_, path, _)) = &block.trait_ {
        return Err(Error::new(path.span(), "#[methods] goes on the struct's own impl block, not on that of a trait"));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new(block.generics.span(), "a behaviour has no generic parameters"));
    }
    let parts = parts(block)?;
    let ty = &block.self_ty;
    let methods = text::json_array(&parts.methods.iter().map(Method::description).collect::<Vec<_>>());
    let arms = parts.methods.iter().zip(0_u32..).map(|(method, number)| method.arm(number));
    let (reads, writes) = (parts.migrations.read_versions(), parts.migrations.written_versions());
    let (migrate, assertions) = (parts.migrations.function(), parts.migrations.assertions(ty));
    Ok(quote! {
        #[automatically_derived]
        impl ::theseus_plugin::__private::Behavior for #ty {
            const READS: &'static [u32] = &[#(#reads),*];
            const WRITES: &'static [u32] = &[#(#writes),*];
            const METHODS: &'static str = #methods;

            fn call(
                call: &mut ::theseus_plugin::__private::Call<'_>,
            ) -> ::core::result::Result<(), ::theseus_plugin::__private::Error> {
                match call.method {
                    #(#arms)*
                    number => ::core::result::Result::Err(::theseus_plugin::__private::no_such_method(number)),
                }
            }

            #migrate
        }

        #assertions
    })
}

fn parts(block: &mut ItemImpl) -> Result<Parts> {
    let mut parts = Parts::default();
    let mut errors: Option<Error> = None;
    for item in &mut block.items {
        let ImplItem::Fn(function) = item else { continue };
        if let Err(error) = sort_in(function, &mut parts) {
            match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            }
        }
    }
    match errors {
        Some(errors) => Err(errors),
        None => parts.migrations.check().map(|()| parts),
    }
}

/// Finds out what a function is to the behaviour.
fn sort_in(function: &mut ImplItemFn, parts: &mut Parts) -> Result<()> {
    let migrate = function.attrs.iter().position(|attribute| attribute.path().is_ident("migrate"));
    if let Some(index) = migrate {
        let attribute = function.attrs.remove(index);
        let span = attribute.span();
        parts.migrations.add(&function.sig, attribute.parse_args()?, span)?;
    } else if matches!(function.vis, Visibility::Public(_)) {
        parts.methods.push(method(function)?);
    }
    Ok(())
}

/// Refuses what no function that is called from outside can be.
pub(crate) fn plain(signature: &Signature) -> Result<()> {
    if let Some(token) = &signature.asyncness {
        return Err(Error::new(
            token.span(),
            "a method cannot be async: a transaction runs on one thread from start to end",
        ));
    }
    if let Some(token) = &signature.unsafety {
        return Err(Error::new(token.span(), "a method cannot be unsafe: its callers are not in this program"));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new(abi.span(), "a method has Rust's own calling convention"));
    }
    if !signature.generics.params.is_empty() {
        let message = "a method cannot be generic: its arguments are decoded to the types that stand here";
        return Err(Error::new(signature.generics.span(), message));
    }
    Ok(())
}

fn method(function: &ImplItemFn) -> Result<Method> {
    let signature = &function.sig;
    plain(signature)?;
    if let Some(attribute) =
        function.attrs.iter().find(|it| it.path().is_ident("cfg") || it.path().is_ident("cfg_attr"))
    {
        let message =
            "a method cannot depend on cfg: methods are numbered, and the numbers are the same in every build";
        return Err(Error::new(attribute.span(), message));
    }
    let Some(receiver) = signature.receiver() else {
        let message = "a public function here is a method and takes `&self` (a query) or `&mut self` (a command); \
                       a helper is not `pub`";
        return Err(Error::new(signature.ident.span(), message));
    };
    if receiver.reference.is_none() || receiver.colon_token.is_some() {
        return Err(Error::new(receiver.span(), "a method takes `&self` (a query) or `&mut self` (a command)"));
    }
    let mut inputs = signature.inputs.iter().skip(1).peekable();
    let takes_context = inputs.next_if(|input| is_context(input)).is_some();
    let arguments = inputs.map(argument).collect::<Result<Vec<_>>>()?;
    Ok(Method {
        ident: signature.ident.clone(),
        doc: text::doc(&function.attrs),
        is_command: receiver.mutability.is_some(),
        takes_context,
        arguments,
        returns: Returns::of(&signature.output),
    })
}

fn is_context(input: &FnArg) -> bool {
    let FnArg::Typed(input) = input else { return false };
    let Type::Reference(reference) = &*input.ty else { return false };
    let Type::Path(path) = &*reference.elem else { return false };
    reference.mutability.is_some() && path.path.segments.last().is_some_and(|segment| segment.ident == "Context")
}

fn argument(input: &FnArg) -> Result<Argument> {
    if is_context(input) {
        return Err(Error::new(input.span(), "the context comes right after `self`"));
    }
    let FnArg::Typed(input) = input else {
        return Err(Error::new(input.span(), "a method has one receiver"));
    };
    let Pat::Ident(pattern) = &*input.pat else {
        return Err(Error::new(input.pat.span(), "an argument is known to callers by its name: give it one"));
    };
    if let Type::ImplTrait(ty) = &*input.ty {
        return Err(Error::new(ty.span(), "an argument is decoded to one type: name it"));
    }
    Ok(Argument { name: text::name(&pattern.ident), ty: (*input.ty).clone() })
}

impl Returns {
    pub(crate) fn of(output: &ReturnType) -> Returns {
        let ReturnType::Type(_, ty) = output else {
            return Returns { fallible: false, value: "()".to_owned() };
        };
        if let Type::Path(path) = &**ty
            && let Some(segment) = path.path.segments.last()
            && segment.ident == "Result"
        {
            let value = match &segment.arguments {
                PathArguments::AngleBracketed(arguments) => arguments.args.first(),
                _ => None,
            };
            let value = match value {
                Some(GenericArgument::Type(value)) => text::code(value),
                _ => "()".to_owned(),
            };
            return Returns { fallible: true, value };
        }
        Returns { fallible: false, value: text::code(ty) }
    }

    /// The value of a call, or an early return with its error.
    pub(crate) fn value_of(&self, call: TokenStream) -> TokenStream {
        if !self.fallible {
            return call;
        }
        quote! {
            match #call {
                ::core::result::Result::Ok(value) => value,
                ::core::result::Result::Err(error) => return ::core::result::Result::Err(
                    <::theseus_plugin::__private::Error as ::core::convert::From<_>>::from(error),
                ),
            }
        }
    }
}

impl Method {
    fn description(&self) -> String {
        let argument = |argument: &Argument| {
            let type_name = text::json_string(&text::code(&argument.ty));
            text::json_object(&[("name", text::json_string(&argument.name)), ("type", type_name)])
        };
        let kind = if self.is_command { "command" } else { "query" };
        text::json_object(&[
            ("name", text::json_string(&text::name(&self.ident))),
            ("kind", text::json_string(kind)),
            ("arguments", text::json_array(&self.arguments.iter().map(argument).collect::<Vec<_>>())),
            ("returns", text::json_string(&self.returns.value)),
            ("doc", text::json_string(&self.doc)),
        ])
    }

    /// The arm of `match call.method` that runs this method.
    fn arm(&self, number: u32) -> TokenStream {
        let name = text::name(&self.ident);
        let count = self.arguments.len();
        let described = self.arguments.iter().map(|Argument { name, ty }| {
            let type_name = text::code(ty);
            quote! { (#name, #type_name) }
        });
        let mut canonical: Vec<usize> = (0..count).collect();
        canonical.sort_by(|a, b| text::canonical(&self.arguments[*a].name, &self.arguments[*b].name));
        let values: Vec<_> = (0..count).map(|number| format_ident!("argument_{number}")).collect();
        let decoded = self.arguments.iter().zip(&values).enumerate().map(|(number, (Argument { ty, .. }, value))| {
            quote_spanned! { ty.span() =>
                let #value: #ty = ::theseus_plugin::__private::argument(#value, &SIGNATURE, #number)?;
            }
        });
        let context = self.takes_context.then(|| {
            quote! { &mut ::theseus_plugin::__private::Context::new(call.token, call.receiver), }
        });
        let ident = &self.ident;
        let (object, save) = if self.is_command {
            let save = quote! { ::theseus_plugin::__private::save_changes(&object, &arrived, call.changes)?; };
            (quote! { &mut object }, save)
        } else {
            (quote! { &object }, TokenStream::new())
        };
        let binding = if self.is_command {
            quote! { (mut object, arrived) }
        } else {
            quote! { (object, _) }
        };
        let value = self.returns.value_of(quote! { Self::#ident(#object, #context #(#values),*) });
        quote! {
            #number => {
                static SIGNATURE: ::theseus_plugin::__private::Signature<#count> =
                    ::theseus_plugin::__private::Signature {
                        method: #name,
                        arguments: [#(#described),*],
                        canonical: [#(#canonical),*],
                    };
                let [#(#values),*] =
                    ::theseus_plugin::__private::arguments(call.arguments.as_slice(), &SIGNATURE)?;
                #(#decoded)*
                let #binding =
                    <Self as ::theseus_plugin::__private::Slots>::load(call.slots.as_slice(), &mut |_| {})?;
                #[allow(clippy::let_unit_value, reason = "a method may return nothing")]
                let value = #value;
                ::theseus_plugin::__private::put_result(&value, call.result)?;
                #save
                ::core::result::Result::Ok(())
            }
        }
    }
}
