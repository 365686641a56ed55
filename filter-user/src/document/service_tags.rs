// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file of Azure service tags: only the tags that are asked for become sets, since the whole
//! file is most of a cloud.

use std::collections::BTreeMap;

use super::{
    Document, EndpointSet, Format, InvalidDocument, NO_PORTS, Options, PortSet, PortsFrom,
    SetState, Stated, Why,
    feed::{Feed, Member, MissingPorts, Takes, printable},
    json::{self, Fault, Node},
    single,
};

/// What stands for all tags of a file.
pub(super) const ALL: &str = "*";

/// How many near names an error offers.
const OFFERED: usize = 5;

/// How many letters may differ between what is written and what is meant.
const MOST_SLIPS: usize = 3;

/// The longest names that are compared letter by letter.
const COMPARED: usize = 80;

struct Tag<'a> {
    name: &'a str,
    region: &'a str,
    service: &'a str,
    prefixes: Vec<Member<'a>>,
    start: usize,
    end: usize,
}

/// Reads such a file.
pub(super) fn read(text: &str, options: &Options) -> Result<Document, InvalidDocument> {
    let mut feed = Feed::new(text, Format::ServiceTags, None);
    let root = json::parse(text).map_err(|fault| fault.at(&feed.lines))?;
    let tags = tags(&root).map_err(|fault| fault.at(&feed.lines))?;
    let cloud = cloud(&root, &mut feed).map_err(|fault| fault.at(&feed.lines))?;
    let chosen = chosen(&tags, &options.tags)?;
    for (tag, chosen) in tags.iter().zip(chosen) {
        match chosen {
            Chosen::Yes => set(tag, &cloud, &mut feed),
            Chosen::No => {
                for prefix in &tag.prefixes {
                    // As in a set, where it is a prefix at all.
                    let text = single::read(prefix.text).map(|endpoint| endpoint.text);
                    let token = text.as_deref().unwrap_or(prefix.text);
                    feed.leave_out(prefix.offset, token, Why::NotSelected);
                }
            }
        }
    }
    feed.warn(0, format!("{NO_PORTS}service tags; written disabled"));
    Ok(feed.finish())
}

fn tags<'a>(root: &'a Node<'_>) -> Result<Vec<Tag<'a>>, Fault> {
    root.expect_object("a file of Azure service tags")?;
    let values = root.field("values").ok_or_else(|| {
        Fault::new(
            root.start,
            "this JSON is no file of Azure service tags: the object has no field `values`",
        )
    })?;
    values.array("`values`")?.iter().map(tag).collect()
}

fn tag<'a>(object: &'a Node<'_>) -> Result<Tag<'a>, Fault> {
    object.expect_object("a service tag")?;
    let needed = |node: &'a Node<'_>, key: &str| {
        let problem = format!("this service tag has no field `{key}`");
        node.field(key).ok_or_else(|| Fault::new(node.start, problem))
    };
    let name = needed(object, "name")?.text("`name`")?;
    let properties = needed(object, "properties")?;
    properties.expect_object("`properties`")?;
    let text = |key: &str| match properties.field(key) {
        Some(node) => node.text(&format!("`{key}`")),
        None => Ok(""),
    };
    let mut prefixes = Vec::new();
    for item in needed(properties, "addressPrefixes")?.array("`addressPrefixes`")? {
        let text = item.text("an address prefix")?;
        prefixes.push(Member { offset: item.start, text, takes: Takes::Nets });
    }
    Ok(Tag {
        name,
        region: text("region")?,
        service: text("systemService")?,
        prefixes,
        start: object.start,
        end: object.end,
    })
}

/// The cloud's name; the file's title and date are told by the way.
fn cloud(root: &Node<'_>, feed: &mut Feed<'_>) -> Result<String, Fault> {
    let cloud = root.field("cloud").map(|node| node.text("`cloud`")).transpose()?;
    let cloud = printable(cloud.unwrap_or_default());
    let change = root.field("changeNumber").map(|node| node.whole("`changeNumber`")).transpose()?;
    let title = match cloud.as_str() {
        "" => "Azure service tags".to_owned(),
        cloud => format!("Azure service tags, cloud {cloud}"),
    };
    feed.describe(Some(title), change.map(|change| format!("change {change}")));
    Ok(cloud)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Yes,
    No,
}

/// Which tags are asked for.
fn chosen(tags: &[Tag<'_>], wanted: &[String]) -> Result<Vec<Chosen>, InvalidDocument> {
    if wanted.is_empty() {
        let prefixes = tags.iter().map(|tag| tag.prefixes.len()).sum();
        return Err(InvalidDocument::TagsMissing { tags: tags.len(), prefixes });
    }
    if wanted.iter().any(|wanted| wanted == ALL) {
        return Ok(vec![Chosen::Yes; tags.len()]);
    }
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, tag) in tags.iter().enumerate() {
        by_name.entry(tag.name.to_lowercase()).or_default().push(index);
    }
    let mut chosen = vec![Chosen::No; tags.len()];
    for wanted in wanted {
        let Some(indices) = by_name.get(&wanted.to_lowercase()) else {
            return Err(InvalidDocument::UnknownTag {
                tag: printable(wanted),
                near: near(tags, wanted),
                tags: tags.len(),
            });
        };
        for index in indices {
            if let Some(slot) = chosen.get_mut(*index) {
                *slot = Chosen::Yes;
            }
        }
    }
    Ok(chosen)
}

/// Names that somebody who wrote this may have meant, the nearest first.
fn near(tags: &[Tag<'_>], wanted: &str) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut near: Vec<(usize, &str)> = tags
        .iter()
        .filter_map(|tag| {
            let name = tag.name.to_lowercase();
            let service = wanted.split('.').next().unwrap_or_default();
            let related = name.contains(&wanted)
                || (service.len() > 3 && name.split('.').next() == Some(service));
            // Names of other lengths can't be near, and are most of the file.
            if !related && name.len().abs_diff(wanted.len()) > MOST_SLIPS {
                return None;
            }
            let distance = distance(&name, &wanted);
            (related || distance <= MOST_SLIPS).then_some((distance, tag.name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(OFFERED).map(|(_, name)| printable(name)).collect()
}

/// How many letters have to be changed, put in or taken out.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(COMPARED).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, from) in a.chars().take(COMPARED).enumerate() {
        let mut next = vec![index + 1];
        let pairs = row.iter().zip(row.iter().skip(1)).zip(&b);
        for ((diagonal, above), to) in pairs {
            let left = next.last().copied().unwrap_or_default();
            let change = diagonal + usize::from(from != *to);
            next.push(change.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

fn set(tag: &Tag<'_>, cloud: &str, feed: &mut Feed<'_>) {
    if tag.prefixes.is_empty() {
        let name = printable(tag.name);
        feed.warn(tag.start, format!("the service tag {name} has no prefixes; it makes no rule"));
    }
    let section = if tag.service.is_empty() { cloud.to_owned() } else { printable(tag.service) };
    let template = EndpointSet {
        source: 0,
        id: None,
        section,
        description: printable(tag.name),
        category: None,
        required: Stated::Unstated,
        express_route: Stated::Unstated,
        group: (!tag.region.is_empty()).then(|| printable(tag.region)),
        names: Vec::new(),
        prefixes: Vec::new(),
        ports: PortSet::default(),
        ports_from: PortsFrom::Nowhere,
        state: SetState::WithoutPorts,
        lines: (feed.lines.line(tag.start), feed.lines.line(tag.end.saturating_sub(1))),
        notes: Vec::new(),
        rule: None,
    };
    feed.add(&template, &tag.prefixes, MissingPorts::SaidOnce);
}
