//! `#[behavior]`: a struct becomes slots.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Error, Field, Fields, Ident, ItemStruct, LitInt, Result, Token,
    parse::{Parse, ParseStream},
    spanned::Spanned,
};

use crate::text;

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let slots = syn::parse2(arguments).and_then(|version: Version| slots_impl(&version, syn::parse2(item.clone())?));
    // The struct itself stays even if its attribute is wrong, so that the compiler does not miss it everywhere else.
    let slots = slots.unwrap_or_else(Error::into_compile_error);
    quote! { #item #slots }
}

/// `version = 1`
struct Version(u32);

impl Parse for Version {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        const USAGE: &str = "write #[behavior(version = 1)]: the version of the slots, a number from 1 on";
        let key: Ident = input.parse().map_err(|error| Error::new(error.span(), USAGE))?;
        if key != "version" {
            return Err(Error::new(key.span(), USAGE));
        }
        input.parse::<Token![=]>().map_err(|error| Error::new(error.span(), USAGE))?;
        let number: LitInt = input.parse().map_err(|error| Error::new(error.span(), USAGE))?;
        if !input.is_empty() {
            return Err(input.error(USAGE));
        }
        match number.base10_parse() {
            Ok(version) if version > 0 => Ok(Version(version)),
            _ => Err(Error::new(number.span(), USAGE)),
        }
    }
}

/// A field with the names it goes by.
struct Slot<'a> {
    field: &'a Field,
    ident: &'a Ident,
    name: String,
    type_name: String,
}

fn slots_impl(version: &Version, item: ItemStruct) -> Result<TokenStream> {
    if !item.generics.params.is_empty() {
        return Err(Error::new(
            item.generics.span(),
            "a behaviour has no generic parameters: its slots have fixed types",
        ));
    }
    let fields = match &item.fields {
        Fields::Named(fields) => fields.named.iter().collect(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(fields) => {
            return Err(Error::new(fields.span(), "slots have names: give the struct named fields"));
        }
    };
    let mut slots: Vec<_> = fields
        .into_iter()
        .filter_map(|field| {
            let ident = field.ident.as_ref()?;
            Some(Slot { field, ident, name: text::name(ident), type_name: text::code(&field.ty) })
        })
        .collect();
    if let Some(slot) = slots.iter().find(|slot| slot.field.attrs.iter().any(|it| it.path().is_ident("cfg"))) {
        return Err(Error::new(slot.ident.span(), "slots are the same in every build: a slot cannot depend on cfg"));
    }
    let descriptions: Vec<_> = slots
        .iter()
        .map(|slot| {
            text::json_object(&[
                ("name", text::json_string(&slot.name)),
                ("type", text::json_string(&slot.type_name)),
                ("doc", text::json_string(&text::doc(&slot.field.attrs))),
            ])
        })
        .collect();
    slots.sort_by(|a, b| text::canonical(&a.name, &b.name));

    let (ident, Version(schema)) = (&item.ident, version);
    let count = slots.len();
    let names: Vec<_> = slots.iter().map(|slot| &slot.name).collect();
    let doc = text::json_string(&text::doc(&item.attrs));
    let descriptions = text::json_array(&descriptions);
    let (load, save) = (load(&slots), save(&slots));
    Ok(quote! {
        #[automatically_derived]
        impl ::theseus_plugin::__private::Slots for #ident {
            const SCHEMA: u32 = #schema;
            const NAMES: &'static [&'static str] = &[#(#names),*];
            const DOC: &'static str = #doc;
            const SLOTS: &'static str = #descriptions;
            type Arrived<'de> = [::theseus_plugin::__private::Skip<'de>; #count];
            #load
            #save
        }
    })
}

fn load(slots: &[Slot<'_>]) -> TokenStream {
    let values: Vec<_> = (0..slots.len()).map(|number| format_ident!("slot_{number}")).collect();
    let arrived: Vec<_> = (0..slots.len()).map(|number| format_ident!("arrived_{number}")).collect();
    let idents: Vec<_> = slots.iter().map(|slot| slot.ident).collect();
    let decoded = slots.iter().zip(&values).zip(&arrived).map(|((slot, value), arrived)| {
        let (ty, name, type_name) = (&slot.field.ty, &slot.name, &slot.type_name);
        quote_spanned! { ty.span() =>
            let (#value, #arrived) = reader.slot::<#ty>(#name, #type_name)?;
        }
    });
    // What has no slots mostly comes with none, and then there is nothing to look at.
    let shortcut = slots.is_empty().then(|| {
        quote! {
            if slots == [0xa0] {
                return ::core::result::Result::Ok((Self {}, []));
            }
        }
    });
    let object = if slots.is_empty() {
        quote! { Self {} }
    } else {
        quote! {
            match (#(#values,)*) {
                (#(::core::option::Option::Some(#values),)*) => Self { #(#idents: #values),* },
                (#(#values,)*) => {
                    let default = <Self as ::core::default::Default>::default();
                    Self { #(#idents: #values.unwrap_or(default.#idents)),* }
                }
            }
        }
    };
    quote! {
        #[inline]
        fn load<'de>(
            slots: &'de [u8],
            unknown: &mut dyn ::core::ops::FnMut(&'de str),
        ) -> ::core::result::Result<(Self, Self::Arrived<'de>), ::theseus_plugin::__private::Error> {
            #shortcut
            #[allow(unused_mut, reason = "a behaviour may have no slots")]
            let mut reader = ::theseus_plugin::__private::SlotReader::new(slots, unknown)?;
            #(#decoded)*
            reader.finish()?;
            ::core::result::Result::Ok((#object, [#(#arrived),*]))
        }
    }
}

fn save(slots: &[Slot<'_>]) -> TokenStream {
    let written = slots.iter().enumerate().map(|(number, Slot { field, ident, name, .. })| {
        quote_spanned! { field.ty.span() =>
            writer.slot(#name, &self.#ident, skip[#number], default.map(|default| &default.#ident))?;
        }
    });
    let default = if slots.is_empty() {
        TokenStream::new()
    } else {
        quote! {
            let missing = skip.iter().any(|skip| ::core::matches!(skip, ::theseus_plugin::__private::Skip::IfDefault));
            let default = missing.then(<Self as ::core::default::Default>::default);
            let default = default.as_ref();
        }
    };
    quote! {
        fn save(
            &self,
            skip: &[::theseus_plugin::__private::Skip<'_>],
            out: &mut ::theseus_plugin::__private::RVec<u8>,
        ) -> ::core::result::Result<usize, ::theseus_plugin::__private::Error> {
            #default
            #[allow(unused_mut, reason = "a behaviour may have no slots")]
            let mut writer = ::theseus_plugin::__private::SlotWriter::new(out);
            #(#written)*
            ::core::result::Result::Ok(writer.finish())
        }
    }
}
