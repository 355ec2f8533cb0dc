//! `#[data]`: a type becomes fit for slots, arguments and results.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, spanned::Spanned};

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return Error::new(arguments.span(), "#[data] takes no arguments").into_compile_error();
    }
    quote! {
        #[derive(::theseus_plugin::serde::Serialize, ::theseus_plugin::serde::Deserialize)]
        #[serde(crate = "::theseus_plugin::serde")]
        #item
    }
}
