// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a group is the one that is asked for, whatever the language of the page.

/// The regions that vendors sort their services by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Region {
    NorthAmerica,
    Europe,
    AsiaPacific,
}

/// What the regions are called, in lower case.
const NAMES: [(Region, &[&str]); 3] = [
    (
        Region::NorthAmerica,
        &[
            "na",
            "us",
            "usa",
            "nam",
            "amer",
            "americas",
            "north america",
            "united states",
            "nordamerika",
            "amérique du nord",
            "amerique du nord",
            "norteamérica",
            "norteamerica",
            "américa del norte",
            "america del norte",
            "nord america",
            "america del nord",
            "nordamerica",
            "américa do norte",
            "america do norte",
            "noord-amerika",
            "ameryka północna",
            "severní amerika",
            "pohjois-amerikka",
            "észak-amerika",
            "kuzey amerika",
            "северная америка",
            "北米",
            "北アメリカ",
            "北美",
            "北美洲",
            "북미",
            "북아메리카",
        ],
    ),
    (
        Region::Europe,
        &[
            "eu",
            "eur",
            "emea",
            "europe",
            "europa",
            "eurooppa",
            "európa",
            "evropa",
            "avrupa",
            "европа",
            "ヨーロッパ",
            "欧州",
            "欧洲",
            "歐洲",
            "유럽",
        ],
    ),
    (
        Region::AsiaPacific,
        &[
            "ap",
            "apac",
            "asia",
            "asia pacific",
            "asia-pacific",
            "asien",
            "asien-pazifik",
            "asien pazifik",
            "asien och stillahavsområdet",
            "asien-stillahavsområdet",
            "asien/stillahavsområdet",
            "asie",
            "asie-pacifique",
            "asie pacifique",
            "asia pacífico",
            "asia-pacífico",
            "asia pacifico",
            "asia e pacifico",
            "asia-pacifico",
            "ásia",
            "ásia-pacífico",
            "ásia pacífico",
            "ásia e pacífico",
            "azië",
            "azië-pacific",
            "azië en stille oceaan",
            "azja",
            "azja i pacyfik",
            "azja-pacyfik",
            "asie a tichomoří",
            "asie – tichomoří",
            "asien og stillehavsområdet",
            "asien/stillehavet",
            "asia og stillehavet",
            "asia og stillehavsområdet",
            "aasia",
            "aasian ja tyynenmeren alue",
            "aasia ja tyynimeri",
            "ázsia",
            "ázsia és a csendes-óceáni térség",
            "asya",
            "asya pasifik",
            "азия",
            "азиатско-тихоокеанский регион",
            "アジア",
            "アジア太平洋",
            "アジア太平洋地域",
            "アジア パシフィック",
            "亚洲",
            "亚太",
            "亚太地区",
            "亚太区",
            "亞洲",
            "亞太",
            "亞太地區",
            "아시아",
            "아시아 태평양",
            "아시아/태평양",
        ],
    ),
];

/// What the names of Microsoft's scale units begin with; a number follows.
const SCALE_UNITS: [(&str, Region); 4] = [
    ("amsua", Region::NorthAmerica),
    ("amsub", Region::Europe),
    ("amsuc", Region::AsiaPacific),
    ("amsud", Region::AsiaPacific),
];

/// Words this short are too often something else to be taken for a region out of their context.
const SHORT: usize = 4;

/// Whether a set's group is, or has among others, the one that is asked for.
pub(super) fn matches(group: &str, wanted: &str) -> bool {
    let (group, wanted) = (group.trim().to_lowercase(), wanted.trim().to_lowercase());
    // A unit that is asked for is that one, not all of its region.
    let region = named(&wanted);
    let same = |part: &str| part == wanted;
    let same_region = |part: &str| region.is_some() && self::region(part) == region;
    if same(&group) || same_region(&group) {
        return true;
    }
    let parts = group.split([',', ';', '、', '，', '|', '(', ')', '/', '\n']).map(str::trim);
    let words = group.split(|c: char| {
        c.is_whitespace() || matches!(c, ',' | ';' | '、' | '，' | '|' | '(' | ')')
    });
    parts.clone().any(same)
        || parts.clone().any(same_region)
        || words.clone().any(|word| !word.is_empty() && same(word))
        || words.filter(|word| word.chars().count() >= SHORT || !word.is_ascii()).any(same_region)
}

/// The region that a text in lower case names, or that a scale unit is in.
fn region(text: &str) -> Option<Region> {
    let unit = SCALE_UNITS.iter().find(|(start, _)| {
        text.strip_prefix(start)
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    });
    unit.map(|(_, region)| *region).or_else(|| named(text))
}

fn named(text: &str) -> Option<Region> {
    NAMES.iter().find(|(_, names)| names.contains(&text)).map(|(region, _)| *region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_match_whole_in_part_and_by_region() {
        for (group, wanted) in [
            ("Europe", "eu"),
            ("Europe", "EUROPA"),
            ("Europa", "europe"),
            ("North America", "na"),
            ("Nordamerika", "us"),
            ("Amérique du Nord", "north america"),
            ("Asie-Pacifique", "ap"),
            ("Asia Pacific", "apac"),
            ("アジア太平洋", "asia"),
            ("北美", "na"),
            ("North America, Europe", "eu"),
            ("Europe (EU)", "eu"),
            ("Europe region", "eu"),
            ("AMSUA0601", "na"),
            ("AMSUA0601, AMSUA0602", "amsua0602"),
            ("AMSUB0501 AMSUB0502", "eu"),
            ("AMSUC0101; AMSUD0101", "ap"),
            ("westeurope", "WestEurope"),
            ("GCC High", "gcc high"),
        ] {
            assert!(matches(group, wanted), "{group} / {wanted}");
        }
        for (group, wanted) in [
            ("Europe", "na"),
            ("AMSUA0601", "amsua0602"),
            ("AMSUA0601", "eu"),
            ("contact us", "na"),
            ("Australia", "us"),
            ("Europe", "europ"),
            ("westeurope", "eu"),
            ("Europe", ""),
        ] {
            assert!(!matches(group, wanted), "{group} / {wanted}");
        }
    }
}
