//! `plugin!`: a crate becomes a plugin.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Error, Ident, LitStr, Path, Result, Token, bracketed,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
    spanned::Spanned,
};

use crate::text;

/// `abi_stable::library::ROOT_MODULE_LOADER_NAME`: an attribute takes a literal only. A test of the kit compares the two.
const LOADER_SYMBOL: &str = "_1as_0lib_1header_0root_bmodule_bloader";

pub(crate) fn expand(input: TokenStream) -> TokenStream {
    match syn::parse2(input) {
        Ok(plugin) => output(&plugin),
        Err(error) => error.into_compile_error(),
    }
}

/// What stands in `plugin! { ... }`.
struct Plugin {
    name: LitStr,
    behaviors: Vec<Path>,
    capabilities: Vec<LitStr>,
    requires: Vec<Requirement>,
    self_test: Option<Path>,
    retire: Option<Path>,
    allocator: Option<Path>,
}

/// `"ledger.Account" = "^1.2"`
struct Requirement {
    behavior: LitStr,
    version: LitStr,
}

impl Parse for Requirement {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let behavior = input.parse()?;
        input.parse::<Token![=]>()?;
        Ok(Requirement { behavior, version: input.parse()? })
    }
}

impl Parse for Plugin {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut name, mut behaviors, mut capabilities, mut requires) = (None, None, None, None);
        let (mut self_test, mut retire, mut allocator) = (None, None, None);
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            input.parse::<Token![:]>()?;
            let given_before = match key.to_string().as_str() {
                "name" => name.replace(input.parse()?).is_some(),
                "behaviors" => behaviors.replace(list(input)?).is_some(),
                "capabilities" => capabilities.replace(list(input)?).is_some(),
                "requires" => requires.replace(list(input)?).is_some(),
                "self_test" => self_test.replace(input.parse()?).is_some(),
                "retire" => retire.replace(input.parse()?).is_some(),
                "allocator" => allocator.replace(input.parse()?).is_some(),
                _ => {
                    let message =
                        "plugin! knows name, behaviors, capabilities, requires, self_test, retire and allocator";
                    return Err(Error::new(key.span(), message));
                }
            };
            if given_before {
                return Err(Error::new(key.span(), format!("`{key}` is given twice")));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let missing = |key: &str| {
            input.error(format!("`{key}` is missing: plugin! {{ name: \"counter\", behaviors: [Counter] }}"))
        };
        let plugin = Plugin {
            name: name.ok_or_else(|| missing("name"))?,
            behaviors: behaviors.ok_or_else(|| missing("behaviors"))?,
            capabilities: capabilities.unwrap_or_default(),
            requires: requires.unwrap_or_default(),
            self_test,
            retire,
            allocator,
        };
        plugin.check()?;
        Ok(plugin)
    }
}

fn list<T: Parse>(input: ParseStream<'_>) -> Result<Vec<T>> {
    let items;
    bracketed!(items in input);
    Ok(Punctuated::<T, Token![,]>::parse_terminated(&items)?.into_iter().collect())
}

impl Plugin {
    fn check(&self) -> Result<()> {
        let name = self.name.value();
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if !name.bytes().next().is_some_and(|first| first.is_ascii_lowercase()) || !name.bytes().all(allowed) {
            let message = "a plugin's name has small letters, digits, `-` and `_`, and begins with a letter";
            return Err(Error::new(self.name.span(), message));
        }
        for (index, behavior) in self.behaviors.iter().enumerate() {
            let same = |other: &Path| type_name(other) == type_name(behavior);
            if self.behaviors[..index].iter().any(same) {
                return Err(Error::new(behavior.span(), "two behaviours of one plugin need different names"));
            }
        }
        self.requires.iter().try_for_each(|requirement| self.check_requirement(requirement))
    }

    fn check_requirement(&self, Requirement { behavior, version }: &Requirement) -> Result<()> {
        match behavior.value().split_once('.') {
            Some((plugin, _)) if plugin == self.name.value() => {
                let message = "a plugin's own behaviours are always there: name those of other plugins only";
                return Err(Error::new(behavior.span(), message));
            }
            Some((plugin, name)) if !plugin.is_empty() && !name.is_empty() => {}
            _ => return Err(Error::new(behavior.span(), "a behaviour of another plugin is `plugin.Type`")),
        }
        if let Err(error) = semver::VersionReq::parse(&version.value()) {
            let message = format!("not a range of versions such as \"^1.2\": {error}");
            return Err(Error::new(version.span(), message));
        }
        Ok(())
    }
}

/// The last part of a path.
fn type_name(path: &Path) -> String {
    path.segments.last().map(|segment| text::name(&segment.ident)).unwrap_or_default()
}

fn output(plugin: &Plugin) -> TokenStream {
    let Plugin { name, behaviors, self_test, retire, allocator, .. } = plugin;
    let names: Vec<_> = behaviors.iter().map(|path| format!("{}.{}", name.value(), type_name(path))).collect();
    let tables: Vec<_> = (0..behaviors.len()).map(|number| format_ident!("TABLE_{number}")).collect();
    let call = |function: &Option<Path>| match function {
        Some(function) => quote! { #function() },
        None => quote! { ::core::result::Result::Ok(()) },
    };
    let (self_test, retire) = (call(self_test), call(retire));
    let allocated = match allocator {
        Some(allocator) => quote! { ::core::option::Option::Some(#allocator.live_bytes()) },
        None => quote! { ::core::option::Option::None },
    };
    let note = note(plugin, &names);
    quote! {
        #(
            #[automatically_derived]
            impl ::theseus_plugin::__private::Named for #behaviors {
                const NAME: &'static str = #names;
            }
        )*

        #[allow(unsafe_code, reason = "the host finds a plugin by a symbol and a section, whose names are promises to the linker")]
        const _: () = {
            use ::theseus_plugin::__private as kit;

            #(
                static #tables: kit::WithMetadata<kit::BehaviorTable> =
                    kit::WithMetadata::new(kit::behavior_table::<#behaviors>(kit::concat!(
                        "{\"doc\":", <#behaviors as kit::Slots>::DOC,
                        ",\"slots\":", <#behaviors as kit::Slots>::SLOTS,
                        ",\"methods\":", <#behaviors as kit::Behavior>::METHODS,
                        "}",
                    )));
            )*

            struct Plugin;

            static ROOT: kit::WithMetadata<kit::PluginRoot> = kit::WithMetadata::new(kit::plugin_root::<Plugin>());

            impl kit::Plugin for Plugin {
                const NAME: &'static str = #name;

                fn root() -> kit::PluginRootRef {
                    kit::PluginRootRef(ROOT.static_as_prefix())
                }

                fn behaviors() -> &'static [kit::BehaviorTableRef] {
                    static TABLES: &[kit::BehaviorTableRef] =
                        &[#(kit::BehaviorTableRef(#tables.static_as_prefix())),*];
                    TABLES
                }

                fn self_test() -> ::core::result::Result<(), kit::Error> {
                    #self_test
                }

                fn retire() -> ::core::result::Result<(), kit::Error> {
                    #retire
                }

                fn allocated() -> ::core::option::Option<u64> {
                    #allocated
                }
            }

            #[unsafe(export_name = #LOADER_SYMBOL)]
            static HEADER: kit::LibHeader = kit::lib_header::<Plugin>();

            #note
        };
    }
}

/// The manifest, as an ELF note where files are ELF.
fn note(plugin: &Plugin, names: &[String]) -> TokenStream {
    let Plugin { name, behaviors, capabilities, .. } = plugin;
    let requires = plugin.requires.iter().map(|Requirement { behavior, version }| quote! { (#behavior, #version) });
    quote! {
        const FACTS: kit::Facts<'_> = kit::Facts {
            name: #name,
            version: ::core::env!("CARGO_PKG_VERSION"),
            behaviors: &[#(kit::BehaviorFacts {
                name: #names,
                schema: <#behaviors as kit::Slots>::SCHEMA,
                reads: <#behaviors as kit::Behavior>::READS,
                writes: <#behaviors as kit::Behavior>::WRITES,
            }),*],
            unwinds: ::core::cfg!(panic = "unwind"),
            capabilities: &[#(#capabilities),*],
            requires: &[#(#requires),*],
        };
        const LENGTH: usize = kit::manifest::<0>(&FACTS).1;

        #[cfg(not(any(target_vendor = "apple", windows)))]
        #[used]
        #[unsafe(link_section = ".note.theseus")]
        static NOTE: kit::Note<LENGTH> = kit::Note::new(kit::manifest(&FACTS).0);
    }
}
