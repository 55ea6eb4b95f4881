//! `#[libos::main]`: where a program begins, in a VM and on the host.

use proc_macro::TokenStream;
use quote::quote;
use syn::{ItemFn, parse_macro_input};

/// Makes an `async fn main()` the program's start.
///
/// It may return nothing, or a `Result<(), E>` whose error can be displayed: that error is logged, and the program
/// ends with status 1.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    expand(&arguments.into(), &function).unwrap_or_else(|e| e.to_compile_error()).into()
}

fn expand(arguments: &proc_macro2::TokenStream, function: &ItemFn) -> syn::Result<proc_macro2::TokenStream> {
    let signature = &function.sig;
    if !arguments.is_empty() {
        return Err(syn::Error::new_spanned(arguments, "`#[libos::main]` takes no arguments"));
    }
    if signature.asyncness.is_none() {
        return Err(syn::Error::new(signature.fn_token.span, "`main` must be an `async fn`"));
    }
    if signature.ident != "main" {
        return Err(syn::Error::new_spanned(&signature.ident, "only `main` can be the program's start"));
    }
    if !signature.inputs.is_empty() {
        return Err(syn::Error::new_spanned(&signature.inputs, "`main` takes no parameters: see `libos::arguments`"));
    }
    if !signature.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(&signature.generics, "`main` cannot be generic"));
    }
    let (attributes, block, output) = (&function.attrs, &function.block, &signature.output);
    Ok(quote! {
        #(#attributes)*
        async fn firn_async_main() #output #block
        ::libos::start!(firn_async_main);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn refused(function: &ItemFn) -> String {
        expand(&proc_macro2::TokenStream::new(), function).unwrap_err().to_string()
    }

    #[test]
    fn an_async_main_is_accepted_with_and_without_a_result() {
        let plain: ItemFn = parse_quote! { async fn main() {} };
        let fallible: ItemFn = parse_quote! { async fn main() -> Result<(), Error> { Ok(()) } };
        for function in [plain, fallible] {
            let tokens = expand(&proc_macro2::TokenStream::new(), &function).unwrap().to_string();
            assert!(tokens.contains("libos :: start !"), "{tokens}");
        }
    }

    #[test]
    fn anything_else_is_named() {
        assert!(refused(&parse_quote! { fn main() {} }).contains("async fn"));
        assert!(refused(&parse_quote! { async fn start() {} }).contains("only `main`"));
        assert!(refused(&parse_quote! { async fn main(n: u32) {} }).contains("no parameters"));
        assert!(refused(&parse_quote! { async fn main<T>() {} }).contains("generic"));
        let main: ItemFn = parse_quote! { async fn main() {} };
        assert!(expand(&quote! { threads = 2 }, &main).unwrap_err().to_string().contains("no arguments"));
    }
}
