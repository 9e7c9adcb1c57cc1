//! Where Rust code says `unsafe`: as a keyword, not in a comment or a string. Pure.

use proc_macro2::{TokenStream, TokenTree};

/// The lines, from 1, on which the keyword stands. Text that is not Rust has none.
pub(super) fn lines_with_unsafe(text: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    if let Ok(tokens) = text.parse::<TokenStream>() {
        collect(tokens, &mut lines);
    }
    lines
}

fn collect(tokens: TokenStream, lines: &mut Vec<usize>) {
    let mut after_hash = false;
    for token in tokens {
        let attribute = std::mem::take(&mut after_hash);
        match token {
            // `unsafe(no_mangle)` in an attribute is a promise about a name; the code it belongs to is looked at.
            TokenTree::Group(group) if !attribute => collect(group.stream(), lines),
            TokenTree::Ident(ident) if ident == "unsafe" => lines.push(ident.span().start().line),
            // `#` opens an attribute, `#!` one of the whole module; `!` alone is a macro's.
            TokenTree::Punct(punct) => {
                after_hash = punct.as_char() == '#' || (attribute && punct.as_char() == '!');
            }
            TokenTree::Group(_) | TokenTree::Ident(_) | TokenTree::Literal(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyword_is_found_in_every_form_and_only_there() {
        let text = "\
#![deny(unsafe_code)]
//! unsafe in a doc comment
/* unsafe */
fn f() { g!({ unsafe { h() } }) }
unsafe impl Send for X {}
const S: &str = r#\"unsafe\"#;
#[unsafe(no_mangle)]
fn k() {}
";
        assert_eq!(lines_with_unsafe(text), [4, 5]);
        assert_eq!(lines_with_unsafe("} not rust"), [0; 0]);
    }
}
