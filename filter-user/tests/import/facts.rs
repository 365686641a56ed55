// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random endpoint sets, and the forms in which a page may show them.

use std::{collections::BTreeSet, fmt::Write as _};

use proptest::{collection, prelude::*, sample};

use crate::binary::Grants;

/// An endpoint set as a vendor knows it.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    id: u16,
    description: Vec<&'static str>,
    /// An index into a language's words.
    category: usize,
    required: bool,
    express_route: bool,
    names: Vec<String>,
    prefixes: Vec<String>,
    tcp: BTreeSet<u16>,
    udp: BTreeSet<u16>,
}

/// How a page shows its facts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// A Markdown table.
    Markdown,
    /// Line breaks have become blanks, code spans stand side by side.
    Rendered,
    /// A table has become lines.
    Plain,
}

/// The labels of a page.
#[derive(Debug)]
pub(crate) struct Language {
    header: [&'static str; 6],
    /// Allow, default, optimise.
    categories: [&'static str; 3],
    required: &'static str,
    /// True, false.
    booleans: [&'static str; 2],
    colon: &'static str,
}

pub(crate) const LANGUAGES: [Language; 9] = [
    Language {
        header: ["ID", "Desc", "Category", "ER", "Addresses", "Ports"],
        categories: ["Allow", "Default", "Optimize"],
        required: "Required",
        booleans: ["True", "False"],
        colon: ": ",
    },
    Language {
        header: ["ID", "Desc", "Kategori", "ER", "Adresser", "Portar"],
        categories: ["Tillåt", "Standard", "Optimera"],
        required: "Obligatoriskt",
        booleans: ["Sant", "Falskt"],
        colon: ": ",
    },
    Language {
        header: ["ID", "Desc", "Catégorie", "ER", "Adresses", "Ports"],
        categories: ["Autoriser", "Par défaut", "Optimiser"],
        required: "Obligatoire",
        booleans: ["Vrai", "Faux"],
        colon: " : ",
    },
    Language {
        header: ["ID", "Desc", "Kategorie", "ER", "Adressen", "Ports"],
        categories: ["Zulassen", "Standard", "Optimieren"],
        required: "Erforderlich",
        booleans: ["Wahr", "Falsch"],
        colon: ": ",
    },
    Language {
        header: ["ID", "Desc", "Categoría", "ER", "Direcciones", "Puertos"],
        categories: ["Permitir", "Valor predeterminado", "Optimizar"],
        required: "Necesario",
        booleans: ["Verdadero", "Falso"],
        colon: ": ",
    },
    Language {
        header: ["ID", "Opis", "Kategoria", "ER", "Adresy", "Porty"],
        categories: ["Zezwalaj", "Domyślny", "Optymalizuj"],
        required: "Wymagane",
        booleans: ["Prawda", "Fałsz"],
        colon: ": ",
    },
    Language {
        header: ["ID", "説明", "カテゴリ", "ER", "アドレス", "ポート"],
        categories: ["許可", "既定", "最適化"],
        required: "必須",
        booleans: ["はい", "いいえ"],
        colon: "：",
    },
    Language {
        header: ["ID", "说明", "类别", "ER", "地址", "端口"],
        categories: ["允许", "默认", "优化"],
        required: "必需",
        booleans: ["是", "否"],
        colon: "：",
    },
    // Nobody's language: only its structure can be read.
    Language {
        header: ["ID", "Vop", "Blarik", "ER", "Zonnuki", "Querdo"],
        categories: ["Zimba", "Frello", "Grunta"],
        required: "Plokka",
        booleans: ["Yup", "Nepp"],
        colon: ": ",
    },
];

const WORDS: [&str; 12] = [
    "Client",
    "host",
    "service",
    "Windows",
    "10",
    "Office",
    "365",
    "-",
    "delivery",
    "&",
    "(WNS)",
    "synchronisation",
];

const TOPS: [&str; 5] =
    ["example.com", "example.net", "example.org", "example.se", "example.co.uk"];

/// Sets with different IDs.
pub(crate) fn facts() -> impl Strategy<Value = Vec<Fact>> {
    collection::vec(fact(), 1..8).prop_map(|mut facts| {
        let mut seen = BTreeSet::new();
        facts.retain(|fact| seen.insert(fact.id));
        facts
    })
}

fn fact() -> impl Strategy<Value = Fact> {
    let label = "[a-z][a-z0-9]{0,6}(-[a-z0-9]{1,4})?";
    let name = (sample::select(vec!["", "*."]), label, sample::select(TOPS.to_vec()))
        .prop_map(|(star, label, top)| format!("{star}{label}.{top}"));
    let prefix =
        (20_u8..100, any::<u8>(), any::<u8>(), 24_u8..=32).prop_map(|(a, b, c, length)| {
            let net =
                ipnet::IpNet::new(std::net::Ipv4Addr::new(a, b, c, 0).into(), length).unwrap();
            net.to_string()
        });
    let port = || prop_oneof![Just(80), Just(443), Just(123), 1_u16..65535];
    (
        1_u16..1000,
        collection::vec(sample::select(WORDS.to_vec()), 1..5),
        0_usize..3,
        any::<(bool, bool)>(),
        collection::btree_set(name, 1..5),
        collection::btree_set(prefix, 0..4),
        (collection::btree_set(port(), 0..4), collection::btree_set(port(), 0..3)),
    )
        .prop_map(|(id, mut description, category, flags, names, prefixes, (tcp, udp))| {
            // A description begins with a word: a number right behind the ID is another trap.
            description.insert(0, "Service");
            Fact {
                id,
                description,
                category,
                required: flags.0,
                express_route: flags.1,
                names: names.into_iter().collect(),
                prefixes: prefixes.into_iter().collect(),
                tcp: if tcp.is_empty() && udp.is_empty() { [443].into() } else { tcp },
                udp,
            }
        })
}

/// What the facts grant.
pub(crate) fn grants(facts: &[Fact]) -> Grants {
    let mut grants = Grants::new();
    for fact in facts {
        for endpoint in fact.names.iter().chain(&fact.prefixes) {
            for (protocol, ports) in [("tcp", &fact.tcp), ("udp", &fact.udp)] {
                if !ports.is_empty() {
                    grants.entry((endpoint.clone(), protocol)).or_default().extend(ports);
                }
            }
        }
    }
    grants
}

/// A page that shows the facts.
pub(crate) fn page(facts: &[Fact], form: Form, language: &Language) -> String {
    match form {
        Form::Markdown => table(facts, language, "<BR>"),
        Form::Rendered => table(facts, language, " "),
        Form::Plain => lines(facts, language),
    }
}

fn table(facts: &[Fact], language: &Language, line_break: &str) -> String {
    let mut text = format!("## Service\n\n| {} |\n|", language.header.join(" | "));
    text.push_str(&"----|".repeat(6));
    text.push('\n');
    for fact in facts {
        let mut category = language.categories[fact.category].to_owned();
        if fact.required {
            category.push_str(line_break);
            category.push_str(language.required);
        }
        let mut addresses: Vec<String> =
            fact.names.iter().map(|name| format!("`{name}`")).collect();
        if !fact.prefixes.is_empty() {
            addresses.push(format!("`{}`", fact.prefixes.join(", ")));
        }
        let ports: Vec<String> = fact
            .ports()
            .map(|(protocol, ports)| format!("**{protocol}{}** {ports}", language.colon.trim_end()))
            .collect();
        let boolean = language.booleans[usize::from(!fact.express_route)];
        let (id, description) = (fact.id, fact.description.join(" "));
        let (addresses, ports) = (addresses.join(line_break), ports.join(line_break));
        let _ = writeln!(
            text,
            "| {id} | {description} | {category} | {boolean} | {addresses} | {ports} |"
        );
    }
    text
}

fn lines(facts: &[Fact], language: &Language) -> String {
    let mut text = format!("Service\n\n{}\n", language.header.join(" "));
    for fact in facts {
        let category = language.categories[fact.category];
        let _ = write!(text, "{} {} {category}", fact.id, fact.description.join(" "));
        let end = if fact.required { format!("\n{}\n", language.required) } else { " ".to_owned() };
        text.push_str(&end);
        let boolean = language.booleans[usize::from(!fact.express_route)];
        let _ = write!(text, "{boolean} {}", fact.names.join("\n"));
        if !fact.prefixes.is_empty() {
            let _ = write!(text, "\n{}", fact.prefixes.join(", "));
        }
        for (protocol, ports) in fact.ports() {
            let _ = write!(text, "\n{protocol}{}{ports}", language.colon);
        }
        text.push('\n');
    }
    text
}

// === impl Fact ===

impl Fact {
    fn ports(&self) -> impl Iterator<Item = (&'static str, String)> {
        [("TCP", &self.tcp), ("UDP", &self.udp)]
            .into_iter()
            .filter(|(_, ports)| !ports.is_empty())
            .map(|(protocol, ports)| {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                (protocol, ports.join(", "))
            })
    }
}
