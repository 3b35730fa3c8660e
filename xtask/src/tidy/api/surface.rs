//! What of a crate is public, as text.

use syn::{Attribute, Fields, ImplItem, Item, ItemImpl, TraitItem, Type, UseTree, Visibility, parse_quote};

use super::module::{Module, is_test};

/// Attributes that those who use an item see.
const SHOWN: [&str; 5] = ["derive", "must_use", "non_exhaustive", "repr", "cfg"];

/// The public items of the crate as Rust without bodies.
pub(super) fn text(root: &Module) -> String {
    let mut impls = Vec::new();
    root.walk(&mut Vec::new(), &mut |path, module| {
        for item in &module.items {
            if let Item::Impl(item) = item
                && !is_test(&item.attrs)
            {
                impls.push((path.to_vec(), item));
            }
        }
    });
    let items = Crate { root, impls }.public(&mut Vec::new());
    prettyplease::unparse(&syn::File { shebang: None, attrs: Vec::new(), items })
}

struct Crate<'a> {
    root: &'a Module,
    /// Every impl, with the path of its module.
    impls: Vec<(Vec<String>, &'a ItemImpl)>,
}

impl Crate<'_> {
    /// What the module at `path` shows.
    fn public(&self, path: &mut Vec<String>) -> Vec<Item> {
        let Some(module) = self.root.at(path) else { return Vec::new() };
        let mut shown = Vec::new();
        for item in &module.items {
            match item {
                Item::Use(used) if matches!(used.vis, Visibility::Public(_)) => {
                    let mut names = Vec::new();
                    flatten(&used.tree, &mut Vec::new(), &mut names);
                    names.into_iter().for_each(|name| self.reexported(path, &name, &mut shown));
                }
                item => self.show(path, item, &mut shown),
            }
        }
        shown.sort_by_cached_key(order);
        for (name, child) in &module.children {
            path.push(name.clone());
            if child.public {
                let (items, ident) = (self.public(path), syn::Ident::new(name, proc_macro2::Span::call_site()));
                shown.push(parse_quote!(pub mod #ident { #(#items)* }));
            }
            path.pop();
        }
        shown
    }

    /// What `pub use` of `name` (a path, and the name it gets here) shows in the module at `path`.
    fn reexported(&self, path: &[String], name: &Used, shown: &mut Vec<Item>) {
        let Some((item_name, way)) = name.path.split_last() else { return };
        let Some(at) = self.resolve(path, way) else {
            // Another crate's: its name is what there is to say.
            let text = format!("pub use {};", name.text());
            shown.extend(syn::parse_str::<Item>(&text));
            return;
        };
        let module = self.root.at(&at).expect("just resolved");
        let before = shown.len();
        for item in &module.items {
            if item_name == "*" || ident(item).is_some_and(|ident| ident == *item_name) {
                self.show(&at, item, shown);
            }
        }
        if shown.len() == before
            && let Some(reexport) = module.items.iter().find_map(|item| {
                let Item::Use(used) = item else { return None };
                let mut names = Vec::new();
                flatten(&used.tree, &mut Vec::new(), &mut names);
                names.into_iter().find(|used| used.name == *item_name)
            })
        {
            // Re-exported from where it was re-exported to.
            self.reexported(&at, &reexport, shown);
        }
    }

    /// The module in this crate that a path leads to, seen from the module at `from`.
    fn resolve(&self, from: &[String], way: &[String]) -> Option<Vec<String>> {
        let mut at = from.to_vec();
        for step in way {
            match step.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()?),
                name => {
                    at.push(name.to_owned());
                    self.root.at(&at)?;
                }
            }
        }
        Some(at)
    }

    /// Adds an item if it is public, and what its type can do.
    fn show(&self, path: &[String], item: &Item, shown: &mut Vec<Item>) {
        let Some(stripped) = strip(item) else { return };
        shown.push(stripped);
        let (Item::Struct(_) | Item::Enum(_) | Item::Type(_)) = item else { return };
        let Some(name) = ident(item) else { return };
        let mut of_type: Vec<(String, Item)> = Vec::new();
        for (at, implementation) in &self.impls {
            if self_type(implementation).is_some_and(|ident| *ident == *name) && self.means(at, path, &name) {
                let stripped = strip_impl(implementation);
                if let Some(stripped) = stripped {
                    let text = quote::quote!(#stripped).to_string();
                    // Inherent ones first.
                    of_type
                        .push((format!("{}{text}", u8::from(implementation.trait_.is_some())), Item::Impl(stripped)));
                }
            }
        }
        of_type.sort_by(|a, b| a.0.cmp(&b.0));
        shown.extend(of_type.into_iter().map(|(_, item)| item));
    }

    /// Whether `name` in the module at `at` is the type that the module at `path` defines: it is the nearest of that name.
    fn means(&self, at: &[String], path: &[String], name: &str) -> bool {
        let defines = |path: &[String]| {
            let module = self.root.at(path);
            module.is_some_and(|module| {
                module.items.iter().any(|item| is_type(item) && ident(item).is_some_and(|ident| ident == name))
            })
        };
        at == path || !defines(at)
    }
}

/// One name of a `use`.
struct Used {
    /// Every step, the item's own name last; `*` for all.
    path: Vec<String>,
    /// What it is called here.
    name: String,
}

impl Used {
    fn text(&self) -> String {
        let path = self.path.join("::");
        if self.path.last() == Some(&self.name) { path } else { format!("{path} as {}", self.name) }
    }
}

fn flatten(tree: &UseTree, way: &mut Vec<String>, names: &mut Vec<Used>) {
    let mut add = |last: String, name: String| {
        let path = way.iter().cloned().chain([last]).collect();
        names.push(Used { path, name });
    };
    match tree {
        UseTree::Name(name) => add(name.ident.to_string(), name.ident.to_string()),
        UseTree::Rename(rename) => add(rename.ident.to_string(), rename.rename.to_string()),
        UseTree::Glob(_) => add("*".into(), "*".into()),
        UseTree::Path(path) => {
            way.push(path.ident.to_string());
            flatten(&path.tree, way, names);
            way.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, way, names)),
    }
}

fn ident(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn is_type(item: &Item) -> bool {
    matches!(item, Item::Struct(_) | Item::Enum(_) | Item::Type(_) | Item::Trait(_))
}

/// Constants, types with what they can do, traits, functions, names of others; each by name.
fn order(item: &Item) -> (u8, String, u8) {
    let kind = match item {
        Item::Use(used) => return (0, quote::quote!(#used).to_string(), 0),
        Item::Const(_) | Item::Static(_) => 1,
        Item::Struct(_) | Item::Enum(_) | Item::Type(_) => 2,
        Item::Impl(item) => return (2, self_type(item).map(ToString::to_string).unwrap_or_default(), 1),
        Item::Trait(_) => 3,
        _ => 4,
    };
    (kind, ident(item).unwrap_or_default(), 0)
}

fn self_type(item: &ItemImpl) -> Option<&syn::Ident> {
    let Type::Path(path) = item.self_ty.as_ref() else { return None };
    path.path.segments.last().map(|segment| &segment.ident)
}

fn shown_attributes(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| SHOWN.iter().any(|name| attribute.path().is_ident(name)));
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// A public item without docs, bodies and what is private in it.
fn strip(item: &Item) -> Option<Item> {
    let mut item = item.clone();
    let (visibility, attributes) = match &mut item {
        Item::Const(item) => (&item.vis, &mut item.attrs),
        Item::Static(item) => (&item.vis, &mut item.attrs),
        Item::Struct(item) => (&item.vis, &mut item.attrs),
        Item::Enum(item) => (&item.vis, &mut item.attrs),
        Item::Type(item) => (&item.vis, &mut item.attrs),
        Item::Trait(item) => (&item.vis, &mut item.attrs),
        Item::Fn(item) => (&item.vis, &mut item.attrs),
        _ => return None,
    };
    if !is_public(visibility) || is_test(attributes) {
        return None;
    }
    shown_attributes(attributes);
    match &mut item {
        Item::Fn(item) => *item.block = parse_quote!({}),
        Item::Struct(item) => {
            let private = strip_fields(&mut item.fields).then(|| parse_quote!(#[has_private_fields]));
            item.attrs.extend(private);
        }
        Item::Enum(item) => {
            for variant in &mut item.variants {
                shown_attributes(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| field.attrs.clear());
            }
        }
        Item::Trait(item) => item.items.iter_mut().for_each(strip_trait_item),
        _ => {}
    }
    Some(item)
}

/// Takes private fields out; whether there were any.
fn strip_fields(fields: &mut Fields) -> bool {
    let before = fields.len();
    match fields {
        Fields::Named(named) => {
            named.named = named.named.iter().filter(|field| is_public(&field.vis)).cloned().collect();
        }
        Fields::Unnamed(unnamed) => {
            unnamed.unnamed = unnamed.unnamed.iter().filter(|field| is_public(&field.vis)).cloned().collect();
        }
        Fields::Unit => {}
    }
    fields.iter_mut().for_each(|field| field.attrs.clear());
    fields.len() < before
}

fn strip_trait_item(item: &mut TraitItem) {
    match item {
        TraitItem::Fn(item) => {
            shown_attributes(&mut item.attrs);
            if let Some(body) = &mut item.default {
                *body = parse_quote!({});
            }
        }
        TraitItem::Type(item) => shown_attributes(&mut item.attrs),
        TraitItem::Const(item) => shown_attributes(&mut item.attrs),
        _ => {}
    }
}

/// Of an inherent impl what is public in it, if anything; of a trait's its head.
fn strip_impl(item: &ItemImpl) -> Option<ItemImpl> {
    let mut item = item.clone();
    shown_attributes(&mut item.attrs);
    if item.trait_.is_some() {
        item.items.clear();
        return Some(item);
    }
    item.items.retain_mut(|item| match item {
        ImplItem::Fn(item) => {
            shown_attributes(&mut item.attrs);
            item.block = parse_quote!({});
            is_public(&item.vis)
        }
        ImplItem::Const(item) => {
            shown_attributes(&mut item.attrs);
            is_public(&item.vis)
        }
        _ => false,
    });
    (!item.items.is_empty()).then_some(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        let module = Module::parse(source).expect("it is Rust");
        assert_eq!(text(&module), expected);
    }

    #[test]
    fn bodies_docs_and_what_is_private_are_left_out() {
        check(
            "/// Docs.\n#[derive(Debug)]\n#[allow(dead_code)]\npub struct A { /// One.\npub one: u8, two: u8 }\n\
             impl A { /// Does.\n#[must_use] pub fn a(&self) -> u8 { 1 } fn b() {} }\n\
             impl Clone for A { fn clone(&self) -> Self { A { one: 1, two: 2 } } }\n\
             pub(crate) fn hidden() {}\nfn private() {}\n#[cfg(test)] mod tests { pub fn t() {} }\npub const C: u8 = 1;",
            "pub const C: u8 = 1;\n#[derive(Debug)]\n#[has_private_fields]\npub struct A {\n    pub one: u8,\n}\n\
             impl A {\n    #[must_use]\n    pub fn a(&self) -> u8 {}\n}\nimpl Clone for A {}\n",
        );
    }

    #[test]
    fn a_private_module_shows_what_is_re_exported_from_it() {
        check(
            "mod a { pub use b::Deep; mod b { pub struct Deep; } pub struct Shown; pub struct NotShown; impl Shown { pub fn f() {} } }\n\
             pub use a::{Deep, Shown};\npub use foreign::Thing as Other;",
            "pub use foreign::Thing as Other;\npub struct Deep;\npub struct Shown;\nimpl Shown {\n    pub fn f() {}\n}\n",
        );
    }

    #[test]
    fn an_impl_goes_to_the_type_that_its_module_means() {
        check(
            "pub mod a { pub struct T; impl T { pub fn a() {} } }\nmod b { struct T; impl T { pub fn b() {} } }\n\
             mod c { use super::a::T; impl T { pub fn c() {} } }",
            "pub mod a {\n    pub struct T;\n    impl T {\n        pub fn a() {}\n    }\n    impl T {\n        pub fn c() {}\n    }\n}\n",
        );
    }

    #[test]
    fn a_trait_keeps_what_must_be_implemented() {
        check(
            "pub trait T { /// Docs.\nfn must(&self); fn may(&self) -> u8 { 1 } type A; }",
            "pub trait T {\n    fn must(&self);\n    fn may(&self) -> u8 {}\n    type A;\n}\n",
        );
    }
}
