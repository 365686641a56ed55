// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the Microsoft 365 endpoints web service answers: an array of endpoint sets.

use super::{
    Category, Document, EndpointSet, Format, InvalidDocument, Note, Options, PortRange, PortSet,
    PortsFrom, SetState, Stated, Why,
    feed::{Feed, Member, MissingPorts, Takes, printable},
    json::{self, Fault, Node},
    merge,
};

/// What an endpoint set has; an object with none of these is something else.
const TELLING: [&str; 6] =
    ["urls", "ips", "serviceArea", "serviceAreaDisplayName", "tcpPorts", "udpPorts"];

/// Reads such an answer.
pub(super) fn read(text: &str, options: &Options) -> Result<Document, InvalidDocument> {
    let mut feed = Feed::new(text, Format::M365Json, options.tenant.as_deref());
    let read = json::parse(text).and_then(|root| sets(&root, &mut feed));
    read.map_err(|fault| fault.at(&feed.lines))?;
    // The service gives each ID once; a file put together by hand may not.
    Ok(merge::merge(vec![feed.finish()]))
}

fn sets(root: &Node<'_>, feed: &mut Feed<'_>) -> Result<(), Fault> {
    for object in root.array("the Microsoft 365 endpoints")? {
        object.expect_object("an endpoint set")?;
        if TELLING.iter().all(|key| object.field(key).is_none()) {
            let problem = "this JSON is no list of Microsoft 365 endpoint sets: the item has neither `urls` nor `ips`";
            return Err(Fault::new(object.start, problem));
        }
        set(object, feed)?;
    }
    Ok(())
}

fn set(object: &Node<'_>, feed: &mut Feed<'_>) -> Result<(), Fault> {
    let text = |key: &str| object.field(key).map(|node| node.text(&format!("`{key}`"))).transpose();
    let stated = |key: &str| match object.field(key).map(|node| node.boolean(&format!("`{key}`"))) {
        None => Ok(Stated::Unstated),
        Some(value) => value.map(|yes| if yes { Stated::Yes } else { Stated::No }),
    };
    let id = object.field("id").map(|node| node.whole("`id`")).transpose()?;
    let area = match text("serviceAreaDisplayName")? {
        Some(area) => Some(area),
        None => text("serviceArea")?,
    };
    let section = printable(area.unwrap_or_default());
    let notes = text("notes")?.map(printable).filter(|notes| !notes.trim().is_empty());
    let description = match (&notes, section.is_empty()) {
        (Some(notes), true) => notes.clone(),
        (Some(notes), false) => format!("{section}: {notes}"),
        (None, false) => section.clone(),
        (None, true) => "Microsoft 365".to_owned(),
    };
    let category = match text("category")? {
        None => None,
        Some(category) => {
            let known = Category::named(category);
            if known.is_none() {
                let offset = object.field("category").map_or(object.start, |node| node.start);
                let shown: String = printable(category).chars().take(40).collect();
                feed.warn(offset, format!("the category \"{shown}\" is not known"));
            }
            known
        }
    };
    let mut ports = PortSet::default();
    for (key, spans) in [("tcpPorts", &mut ports.tcp), ("udpPorts", &mut ports.udp)] {
        let Some(node) = object.field(key) else { continue };
        for port in node.text(&format!("`{key}`"))?.split([',', ';']).map(str::trim) {
            match PortRange::parse(port) {
                Some(span) => {
                    spans.insert(span);
                }
                None if port.is_empty() => {}
                None => feed.refuse(node.start, port, Why::Broken, "it is no port"),
            }
        }
    }
    let mut members = Vec::new();
    for (key, takes) in [("urls", Takes::Anything), ("ips", Takes::Nets)] {
        let Some(node) = object.field(key) else { continue };
        for item in node.array(&format!("`{key}`"))? {
            let text = item.text(&format!("an item of `{key}`"))?;
            members.push(Member { offset: item.start, text, takes });
        }
    }
    let lines = (feed.lines.line(object.start), feed.lines.line(object.end.saturating_sub(1)));
    if members.is_empty() {
        let name = id.map_or_else(|| "this endpoint set".to_owned(), |id| format!("ID {id}"));
        feed.warn(
            object.start,
            format!("{name} has neither names nor addresses; it makes no rule"),
        );
    }
    let ports_from = if ports.is_empty() { PortsFrom::Nowhere } else { PortsFrom::Row };
    let template = EndpointSet {
        source: 0,
        id,
        section,
        description,
        category,
        required: stated("required")?,
        express_route: stated("expressRoute")?,
        group: None,
        names: Vec::new(),
        prefixes: Vec::new(),
        ports,
        ports_from,
        state: SetState::Enabled,
        lines,
        notes: notes.map(Note::Remark).into_iter().collect(),
        rule: None,
    };
    feed.add(&template, &members, MissingPorts::Warn);
    Ok(())
}
