// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of tables and sentences in the languages that pages come in.
//!
//! All are lower case, with a bar between two. An unknown language costs the facts that only a word can give (category,
//! required, the exact reason of a token that is left out), never an endpoint and never a grant:
//! those hang on structure.

use std::{collections::BTreeMap, sync::LazyLock};

use super::Category;

/// What a column of a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Id,
    Description,
    Category,
    Required,
    ExpressRoute,
    Addresses,
    Protocol,
    Ports,
    Group,
    Notes,
    /// Addresses of the client's side.
    Client,
    /// Inbound or outbound.
    Direction,
    Unknown,
}

/// Parts of header words; the first column that has one decides.
const HEADERS: [(Column, &str); 11] = [
    (
        Column::Client,
        "\
        source|källa|quelle|origen|bron|źródło|источник|送信元|源ip|来源|來源|源地址",
    ),
    (
        Column::Direction,
        "\
        direction|richtung|riktning|direzione|direção|richting|retning|kierunek|směr|suunta|irány|\
        направление|方向|방향",
    ),
    (
        Column::Ports,
        "\
        port|puert|poort|porta|porty|portti|bağlantı noktası|порт|ポート|端口|連接埠|通訊埠|포트|\
        منفذ|πόρτ|θύρ|cổng|พอร์ต",
    ),
    (
        Column::Protocol,
        "\
        protoc|protok|протокол|プロトコル|协议|協議|協定|프로토콜",
    ),
    (
        Column::Category,
        "\
        categor|kategor|catégor|luokka|categoría|категор|カテゴリ|分類|类别|类型|類別|범주|분류|κατηγορ",
    ),
    (
        Column::ExpressRoute,
        "\
        expressroute|express route",
    ),
    (
        Column::Notes,
        "\
        note|remark|remarque|anmerk|comment|kommentar|hinweis|bemerk|observaciones|\
        notas|uwagi|poznámk|примечан|заметк|メモ|備考|备注|附註|메모|비고|proxies|proxy|\
        documentation",
    ),
    (
        Column::Description,
        "\
        desc|beskriv|beschreib|service|feature|purpose|used for|omschrijv|beschrijv|\
        opis|popis|açıklama|описание|説明|说明|描述|설명|kuvaus|leírás|tjänst|dienst|servicio|\
        servizio|serviço|funktion|fonction|περιγραφ",
    ),
    (
        Column::Group,
        "\
        region|région|región|regio|região|regione|bölge|регион|location|tenant|cloud|\
        environment|scale unit|scale-unit|unité d’échelle|unité d'échelle|\
        skalierungseinheit|skalningsenhet|asu|område|地域|リージョン|区域|地区|區域|지역|oblast|régió|alue|스케일 단위|单元|\
        裝置單位|geograph",
    ),
    (
        Column::Addresses,
        "\
        address|adress|adresse|adres|indirizz|direcci|direccio|endereç|osoite|címek|\
        адрес|cdn|fqdn|url|host|endpoint|domain|domän|domæne|domene|dominio|domínio|\
        domeny|domén|alan adı|domaine|server|destination|destino|destinazione|ziel|\
        bestemming|назначени|домен|cidr|subnet|prefix|ip range|アドレス|エンドポイント|ドメイン|宛先|ホスト|\
        地址|域名|终结点|端点|端點|位址|主機|주소|도메인|엔드포인트|διευθύν",
    ),
    (
        Column::Id,
        "\
        endpoint set|row id",
    ),
];

const IDS: &str = "\
    id|#|nr|nr.|no|no.|№|n°|番号";

const CATEGORIES: [(Category, &str); 3] = [
    (
        Category::Optimize,
        "\
        optimize|optimise|optimized|optimised|optimera|optimering|optimiser|optimisé|\
        optimisée|optimieren|optimiert|optimizar|optimizado|ottimizza|ottimizzare|\
        ottimizzato|otimizar|otimizado|optimaliseren|optimér|optimaliser|optimointi|\
        optimoi|optymalizuj|optymalizacja|optimalizovat|optimalizace|optimalizálás|\
        optimize et|iyileştir|оптимизировать|оптимизация|最適化|优化|最佳化|優化|최적화",
    ),
    (
        Category::Allow,
        "\
        allow|allowed|tillåt|tillåta|autoriser|autorisé|zulassen|erlauben|permitir|\
        consenti|consentire|toestaan|tillad|tillat|salli|zezwalaj|zezwól|povolit|\
        engedélyezés|engedélyez|izin ver|разрешить|許可|允许|允許|허용",
    ),
    (
        Category::Default,
        "\
        default|standard|par défaut|défaut|standardmäßig|predeterminado|predeterminada|\
        valor predeterminado|por defecto|impostazione predefinita|predefinito|\
        predefinita|valore predefinito|padrão|predefinição|standaard|oletus|domyślne|\
        domyślny|wartość domyślna|domyślna|výchozí|alapértelmezett|varsayılan|\
        по умолчанию|既定|既定値|デフォルト|默认|默认值|預設|預設值|기본|기본값",
    ),
];

const REQUIRED: &str = "\
    required|mandatory|krävs|obligatoriskt|obligatorisk|obligatoire|requis|requise|\
    erforderlich|obligatorio|obligatoria|requerido|requerida|necesario|obbligatorio|\
    obbligatoria|richiesto|necessario|obrigatório|obrigatória|requisito|necessário|\
    necessária|vereist|verplicht|påkrævet|påkrevd|kræves|nödvändigt|pakollinen|\
    vaaditaan|wymagane|wymagany|vyžadováno|povinné|kötelező|szükséges|gerekli|\
    обязательно|обязательный|必須|必需|必要|požadováno|požadované|vyžadované|zorunlu|필수";

const OPTIONAL: &str = "\
    optional|not required|valfritt|valfri|krävs inte|facultatif|facultative|non requis|\
    nicht erforderlich|opcional|no requerido|facoltativo|opzionale|optioneel|valgfrit|\
    valgfritt|valinnainen|opcjonalne|opcjonalnie|volitelné|választható|nem kötelező|\
    isteğe bağlı|необязательно|省略可能|可选|선택 사항";

const YES: &str = "\
    true|yes|sant|ja|vrai|oui|wahr|sí|si|verdadero|cierto|vero|sì|verdadeiro|sim|waar|\
    sand|sann|kyllä|tosi|prawda|tak|pravda|ano|igaz|igen|doğru|evet|true/yes|да|истина|\
    はい|верно|sandt|正しい|正确|正確|真|對|是|예|참";

const NO: &str = "\
    false|no|falskt|nej|faux|non|nein|falsch|falso|não|nee|onwaar|falsk|usann|nei|ei|\
    epätosi|fałsz|nie|nepravda|ne|hamis|nem|yanlış|hayır|нет|ложь|いいえ|неверно|誤り|偽|否|错误|錯誤|假|아니요|\
    아니오|거짓|false/no|falso/no|いえ";

const MIGRATION: &str = "\
    migrat|migrer|migrier|migrar|migreer|migruj|migrov|migrace|migracj|migrazion|\
    migração|migración|taşın|geçir|siirr|siirt|will move to|moving to|will be replaced|\
    replaced by|мигр|перенос|перенес|перейд|перехо|переме|移行|迁移|遷移|移轉|마이그레이션";

const INSPECTION: &str = "\
    inspect|inspek|inspec|inspeç|inspekt|ispezion|kontrola ssl|proxy|proxies|decrypt|\
    entschlüssel|déchiffr|descifr|mandataire|tarkastu|ssl|tls|инспек|проверк|прокси|検査|\
    プロキシ|检查|檢查|检测|代理|검사|프록시|denetim|incele";

const PROXY: &str = "\
    proxy|proxies|mandataire|プロキシ|прокси|代理|프록시|serwer pośrednicz";

const ALLOW: &str = "\
    allow|firewall|permit|tillåt|brandvägg|autoris|pare-feu|zulassen|zulässig|erlaub|\
    permita|permitir|cortafuegos|consent|toestaan|tillad|tillat|salli|palomuur|zezw|\
    zapor|povol|engedély|tűzfal|izin|güvenlik duvar|разреш|брандмауэр|許可|ファイアウォール|允许|允許|\
    防火墙|防火牆|허용|방화벽|open the following|must be able to reach|reachable";

/// Of services that somebody else reaches, and of what is closed.
const INWARD: &str = "\
    inbound|incoming|listen|inkommande|lyssna|entrant|écoute|eingehend|lauscht|entrante|escucha|\
    in ingresso|in ascolto|de entrada|binnenkomend|luister|przychodz|nasłuch|příchoz|naslouch|\
    gelen|dinle|входящ|прослуш|受信|着信|入站|侦听|輸入|接聽|인바운드|수신";

const BLOCKING: &str = "\
    block|blocker|blockier|bloqu|blocca|blokk|zablok|engelle|блокир|ブロック|阻止|封鎖|차단";

const OUTWARD: &str = "\
    outbound|outgoing|utgående|sortant|ausgehend|salient|in uscita|de saída|uitgaand|wychodz|\
    odchoz|giden|исходящ|送信|アウトバウンド|出站|輸出|아웃바운드";

const REFUSAL: &str = "\
    no longer|not required|isn't required|aren't required|isn’t required|\
    aren’t required|deprecated|are blocked|must be blocked|should be blocked|\
    must not be|do not allow|don't allow|don’t allow|retired|n'est plus|ne sont plus|\
    n’est plus|nicht mehr|inte längre|ya no|non più|niet meer|não são mais|より不要|不再";

const PEER_TO_PEER: &str = "\
    peer-to-peer|peer to peer|p2p|teredo|pair à pair|égal à égal|d’égal|punto a punto|\
    ponto a ponto|одноранг|ピア ツー ピア|ピアツーピア|对等|對等|피어 투 피어";

const DOCUMENTATION_HEADINGS: &str = "\
    related content|related articles|next steps|see also|additional resources|\
    further reading|learn more|relaterat innehåll|nästa steg|se även|étapes suivantes|\
    voir aussi|contenu associé|contenu connexe|nächste schritte|zugehörige inhalte|\
    verwandte inhalte|siehe auch|contenido relacionado|pasos siguientes|próximos pasos|\
    vea también|contenuto correlato|passaggi successivi|conteúdo relacionado|\
    próximas etapas|gerelateerde inhoud|volgende stappen|powiązana zawartość|\
    następne kroki|související obsah|další kroky|ilgili içerik|sonraki adımlar|\
    связанное содержимое|дальнейшие действия|関連コンテンツ|次のステップ|相关内容|后续步骤|相關內容|下一步|관련 콘텐츠|\
    다음 단계";

const REFERENCES: &str = "\
    for more information|plus d'informations|plus d’informations|mer information|\
    weitere informationen|más información|altre informazioni|ulteriori informazioni|\
    mais informações|meer informatie|więcej informacji|další informace|daha fazla bilgi|\
    дополнительные сведения|詳細については|有关详细信息|如需詳細資訊|자세한 내용은";

/// Labels of the boxes that pages put their notes into.
const ALERTS: &str = "\
    note|important|tip|caution|warning|obs|obs!|anm|viktigt|tips|varning|försiktighet|\
    remarque|note:|conseil|attention|avertissement|importante|hinweis|wichtig|tipp|\
    vorsicht|warnung|achtung|nota|sugerencia|precaución|advertencia|suggerimento|\
    attenzione|avviso|observação|dica|cuidado|aviso|notitie|opmerking|belangrijk|\
    waarschuwing|let op|bemærk|vigtigt|advarsel|merk|viktig|huomautus|tärkeää|uwaga|\
    ważne|porada|poznámka|důležité|not|önemli|примечание|важно|внимание|предупреждение|совет|注意|注意事項|警告|提示|附註|メモ|megjegyzés|\
    fontos|figyelem|upozornění|varoitus|vinkki|ostrzeżenie|wskazówka|ipucu|uyarı|重要|ヒント|备注|참고|중요";

const TENANTS: &str = "\
    tenant|locataire|mandant|inquilino|klientorganisation|organization|organisation|\
    dzierżaw|nájemc|kiracı|клиент|テナント|租户|租用戶|테넌트|contoso|yourdomain|customer";

/// What a header cell says about its column.
pub(super) fn column(header: &str) -> Column {
    let header = bare(header);
    if lists(IDS, &header) {
        return Column::Id;
    }
    if header == "er" {
        return Column::ExpressRoute;
    }
    if required(&header) == Some(true) {
        return Column::Required;
    }
    let words: Vec<&str> =
        header.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    HEADERS
        .iter()
        .find(|(column, parts)| parts.split('|').any(|part| heads(*column, part, &header, &words)))
        .map_or(Column::Unknown, |(column, _)| *column)
}

/// Whether a part of a word is in a header.
///
/// Compounds put ports and addresses last ("Zielport"); other words count from their beginning.
fn heads(column: Column, part: &str, header: &str, words: &[&str]) -> bool {
    let anywhere = !part.is_ascii() || part.contains(' ');
    match column {
        Column::Ports if part == "port" => words.iter().any(|word| {
            word.contains(part)
                && !["support", "rapport", "report", "import", "export", "transport"]
                    .iter()
                    .any(|other| word.contains(other))
        }),
        Column::Ports | Column::Addresses => header.contains(part),
        _ if anywhere => header.contains(part),
        _ => words.iter().any(|word| word.starts_with(part)),
    }
}

/// What a phrase of a table says by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Meaning {
    category: Option<Category>,
    required: Option<bool>,
    truth: Option<bool>,
}

/// The phrases of all languages; a row of a table asks for some twenty of them.
static PHRASES: LazyLock<BTreeMap<&str, Meaning>> = LazyLock::new(|| {
    let mut phrases: BTreeMap<&str, Meaning> = BTreeMap::new();
    let mut add = |table: &'static str, set: &dyn Fn(&mut Meaning)| {
        for phrase in table.split('|') {
            set(phrases.entry(phrase).or_default());
        }
    };
    for (category, table) in CATEGORIES {
        add(table, &|meaning| meaning.category = Some(category));
    }
    add(REQUIRED, &|meaning| meaning.required = Some(true));
    add(OPTIONAL, &|meaning| meaning.required = Some(false));
    add(YES, &|meaning| meaning.truth = Some(true));
    add(NO, &|meaning| meaning.truth = Some(false));
    phrases
});

/// The longest phrase, in bytes.
const LONGEST_PHRASE: usize = 64;

fn meaning(phrase: &str) -> Meaning {
    if phrase.len() > LONGEST_PHRASE {
        return Meaning::default();
    }
    PHRASES.get(bare(phrase).as_str()).copied().unwrap_or_default()
}

/// The category that a phrase is the name of.
pub(super) fn category(phrase: &str) -> Option<Category> {
    meaning(phrase).category
}

/// Whether a phrase says that something is required, or that it is not.
pub(super) fn required(phrase: &str) -> Option<bool> {
    meaning(phrase).required
}

/// Whether a phrase is "yes" or "true", or "no" or "false".
pub(super) fn truth(phrase: &str) -> Option<bool> {
    meaning(phrase).truth
}

/// What the words at the start of a text say about category and requirement, and how many words
/// say it.
pub(super) fn classification(words: &[&str]) -> (Option<Category>, Option<bool>, usize) {
    let (mut kind, mut need, mut used) = (None, None, 0);
    while let Some((length, found)) = (1..=3_usize).rev().find_map(|length| {
        let phrase = words.get(used..used + length)?.join(" ");
        let found = meaning(&phrase);
        (found.category.is_some() || found.required.is_some()).then_some((length, found))
    }) {
        // The word in front of a category may end the description.
        if kind.is_some() && found.category.is_some() && kind != found.category {
            break;
        }
        kind = kind.or(found.category);
        need = need.or(found.required);
        used += length;
    }
    (kind, need, used)
}

/// Whether a line is only the label of a box with a note.
pub(super) fn is_alert(line: &str) -> bool {
    lists(ALERTS, &bare(line))
}

/// Whether a text speaks of a move to other names.
pub(super) fn is_migration(text: &str) -> bool {
    has(text, MIGRATION)
}

/// Whether a text speaks of inspection or of proxies.
pub(super) fn is_inspection(text: &str) -> bool {
    has(text, INSPECTION)
}

pub(super) fn is_proxy(text: &str) -> bool {
    has(text, PROXY)
}

/// Whether a text asks for something to be let through.
pub(super) fn is_allowing(text: &str) -> bool {
    has(text, ALLOW)
}

/// Whether a text says that something is not needed, or not wanted.
pub(super) fn is_refusal(text: &str) -> bool {
    has(text, REFUSAL)
}

/// Whether a text speaks of ports that are not the clients' to reach.
pub(super) fn is_closing(text: &str) -> bool {
    (has(text, INWARD) || has(text, BLOCKING)) && !has(text, OUTWARD)
}

pub(super) fn is_peer_to_peer(text: &str) -> bool {
    has(text, PEER_TO_PEER)
}

/// Whether a sentence only says where to read on.
pub(super) fn is_reference(text: &str) -> bool {
    has(text, REFERENCES)
}

pub(super) fn is_documentation_heading(heading: &str) -> bool {
    has(heading, DOCUMENTATION_HEADINGS)
}

/// Whether the word between `<` and `>` stands for the tenant's name.
pub(super) fn is_tenant(filler: &str) -> bool {
    has(filler, TENANTS)
}

/// A phrase without the markup and the punctuation around it, in lower case.
fn bare(phrase: &str) -> String {
    phrase
        .trim_matches(|c: char| c.is_whitespace() || "*_`.:,;!！：。".contains(c))
        .to_lowercase()
        // What is left of a Turkish capital with a dot.
        .replace('\u{307}', "")
}

/// Whether a phrase is one of a table.
fn lists(table: &str, phrase: &str) -> bool {
    table.split('|').any(|listed| listed == phrase)
}

/// Whether a text has any of the parts of words in a table.
fn has(text: &str, table: &str) -> bool {
    let lower = text.to_lowercase();
    table.split('|').any(|part| lower.contains(part))
}
