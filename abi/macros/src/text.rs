//! Texts in the macros' output: JSON, the author's comments, types as the author wrote them.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Expr, ExprLit, Ident, Lit, Meta, ext::IdentExt};

/// A JSON string.
pub(crate) fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            '\n' => json.push_str("\\n"),
            '\0'..'\x20' => json.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => json.push(character),
        }
    }
    json.push('"');
    json
}

/// A JSON object; the values are JSON already.
pub(crate) fn json_object(entries: &[(&str, String)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(key, value)| format!("{}:{value}", json_string(key))).collect();
    format!("{{{}}}", entries.join(","))
}

/// A JSON array; the items are JSON already.
pub(crate) fn json_array(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}

/// The text of an item's doc comments.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes {
        let Meta::NameValue(meta) = &attribute.meta else { continue };
        let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &meta.value else { continue };
        if meta.path.is_ident("doc") {
            let text = text.value();
            lines.extend(text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()));
            if text.is_empty() {
                lines.push(String::new());
            }
        }
    }
    lines.join("\n").trim().to_owned()
}

/// The name behind an identifier, without `r#`.
pub(crate) fn name(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// The order of names in deterministic CBOR: shorter first, then bytewise.
pub(crate) fn canonical(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Code as people space it, which tokens do not remember.
pub(crate) fn code(tokens: impl ToTokens) -> String {
    let mut text = String::new();
    print(tokens.into_token_stream(), &mut text);
    text
}

fn print(tokens: TokenStream, text: &mut String) {
    let mut after_word = false;
    for token in tokens {
        let is_word = matches!(token, TokenTree::Ident(_) | TokenTree::Literal(_));
        if is_word && after_word {
            text.push(' ');
        }
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                text.push_str(open);
                print(group.stream(), text);
                text.push_str(close);
            }
            TokenTree::Punct(punct) => match punct.as_char() {
                mark @ (',' | ';') => text.extend([mark, ' ']),
                mark @ ('+' | '=') => text.extend([' ', mark, ' ']),
                '-' => text.push_str(" -"),
                '>' if text.ends_with('-') => text.push_str("> "),
                '\'' if after_word => text.push_str(" '"),
                mark => text.push(mark),
            },
            word => text.push_str(&word.to_string()),
        }
        after_word = is_word;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_look_as_they_are_written() {
        for written in [
            "i64",
            "&mut Vec<u8>",
            "&'a str",
            "std::collections::BTreeMap<String, Option<Ref<Account>>>",
            "[u8; 32]",
            "(u8, [f64; 2])",
            "dyn Iterator<Item = u8> + Send",
            "fn(u8) -> u8",
        ] {
            let parsed: syn::Type = syn::parse_str(written).unwrap();
            assert_eq!(code(parsed), written);
        }
    }

    #[test]
    fn comments_and_json() {
        let item: syn::ItemStruct = syn::parse_str("/// One \"two\"\n///\n///   three\\\nstruct S;").unwrap();
        assert_eq!(doc(&item.attrs), "One \"two\"\n\n  three\\");
        assert_eq!(json_string(&doc(&item.attrs)), r#""One \"two\"\n\n  three\\""#);
        assert_eq!(json_string("\u{1}\u{e9}"), "\"\\u0001\u{e9}\"");
    }
}
