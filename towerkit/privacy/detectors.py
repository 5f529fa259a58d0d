"""The classes of sensitive text, one row each, in the order in which they are tried.

Rule: a row is a pattern that RE2 can run, a check, and, where shape and check digit do not suffice,
the words that must stand near. Patterns see plain ASCII (`views.fold`); none is longer than a
line. Nothing here decides by the name of a customer or of a test.

A row whose `near` is empty needs no words. A row that needs them may also be `alone`: a message
that is nothing but the number is the answer to a question.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from towerkit.privacy import checks
from towerkit.privacy.checks import alnum, digits, stdnum


class Detector(msgspec.Struct, frozen=True, kw_only=True):
    """One class of sensitive text.

    `name` stands in tokens, `entity` is the published name of the class (Presidio's, where it has
    one). `close` are words that count as near only where nothing but small words stands between.
    `fit` cuts a greedy match to what is meant; `edges` refuses a match that goes on behind a
    dot, dash or slash; `trim` tries the match without its last groups too; `late` rows
    see what rows that need words have left; `run` passes a whole match by when its check fails.
    `listed` refuses groups with spaces between among more numbers. `needs` is what every match has
    in it, `cost` what a match costs to look at, in some ten microseconds.
    """

    name: str
    pattern: str
    tier: str = "B checksum"
    entity: str = ""
    valid: Callable[[str], bool] | None = None
    normal: Callable[[str], str] | None = None
    fit: Callable[[str], str] | None = None
    near: str = ""
    close: str = ""
    alone: bool = False
    edges: bool = False
    trim: bool = False
    late: bool = False
    run: bool = False
    listed: bool = False
    cost: int = 1
    needs: bytes = b""

    @property
    def published(self) -> str:
        """Return the published name of the class."""
        return self.entity or self.name


# What stands for an underscore, where one ends a word (`find`): a pattern may have it.
UNDERSCORE = "\x1f"
_KEYS = (
    r"sk-(?:ant-|proj-|svcacct-|or-v1-|lf-)?[A-Za-z0-9_-]{16,200}",  # OpenAI, Anthropic, others
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}|ABSK[A-Za-z0-9+/]{80,200}={0,2}",  # AWS, Bedrock
    r"gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{30,255}",
    r"gl(?:pat|rt|dt|cbt|ptt|ft|soat|imt|agent|oas)-[A-Za-z0-9_.-]{20,60}",
    r"xox[abeposr](?:\.xox[a-z])?-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{10,250}",  # Slack
    r"AIza[A-Za-z0-9_-]{35}|AQ\.Ab[A-Za-z0-9_-]{30,80}|ya29\.[A-Za-z0-9_-]{20,250}",  # Google
    r"GOCSPX-[A-Za-z0-9_-]{20,40}",
    r"hf_[A-Za-z0-9]{30,60}|gsk_[A-Za-z0-9]{40,60}|xai-[A-Za-z0-9]{40,100}|r8_[A-Za-z0-9]{30,45}",
    r"csk-[a-z0-9]{40,60}|fw_[A-Za-z0-9]{20,40}|jina_[A-Za-z0-9]{40,70}|e2b_[0-9a-f]{40}",
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,110}|whsec_[A-Za-z0-9+/=]{24,60}",  # Stripe
    r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}|key-[0-9a-f]{32}|SK[0-9a-f]{32}",  # mail, SMS
    r"xkeysib-[0-9a-f]{64}-[A-Za-z0-9]{16}|re_[A-Za-z0-9]{8}_[A-Za-z0-9]{20,30}",
    r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{40,250}|do[opr]_v1_[0-9a-f]{64}|dapi[0-9a-f]{32}",
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}|glc_[A-Za-z0-9+/]{40,400}",
    r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}|hv[sbr]\.[A-Za-z0-9_-]{24,160}|tvly-[A-Za-z0-9-]{20,60}",
    r"nvapi-[A-Za-z0-9_-]{60,80}|pplx-[A-Za-z0-9]{40,60}|PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
    r"AT(?:ATT3|CTT3|BB)[A-Za-z0-9_=-]{24,250}|lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,50}",
    r"sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}|dckr_[op]at_[A-Za-z0-9_-]{20,40}",
    r"(?:secret-token:|rubygems_|sentrys_|sntr[yu]s?_)[A-Za-z0-9_+/=.-]{24,250}",
    r"sbp_[0-9a-f]{40}|figd_[A-Za-z0-9_-]{36,50}|pat[A-Za-z0-9]{14}\.[0-9a-f]{64}|nfp_[A-Za-z0-9]{36}",
    r"(?:phc|phx)_[A-Za-z0-9]{36,50}|NRAK-[A-Z0-9]{27}|pul-[0-9a-f]{40}|dp\.(?:pt|st|ct)\.[A-Za-z0-9.]{40,60}",
    r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,80}|CFPAT-[A-Za-z0-9_-]{43}|rnd_[A-Za-z0-9]{28,40}",
    r"ops_eyJ[A-Za-z0-9+/_-]{80,1000}|LTAI[A-Za-z0-9]{20}|AKID[A-Za-z0-9]{28,40}",
    r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}",  # Entra
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram
    r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}",  # Discord
    r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
)  # fmt: skip
# A web hook's address is its key.
_HOOK = (
    r"(?i)\b(?:hooks\.slack\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/webhooks/[0-9]{5,24}/)"
    r"(?P<value>[A-Za-z0-9_/-]{20,200})"
)
_NAMED = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]id)?|private[_-]?key"
    r"|client[_-]?secret|auth[_-]?token|account[_-]?key|credentials?|(?-i:PASS))"
)
_WEEK = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_DATE = (
    r"(?i)\b(?:[0-9]{1,2}[/. -][0-9]{1,2}[/. -](?:[0-9]{4}|[0-9]{2})"
    r"|[0-9]{4}[/. -][0-9]{1,2}[/. -][0-9]{1,2}(?:[T ][0-9]{2}:[0-9]{2})?"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th)?[ -](?:of )?{_WEEK},?[ -][0-9]{{2,4}}"
    rf"|{_WEEK} [0-9]{{1,2}}(?:st|nd|rd|th)?,? [0-9]{{4}})\b"
)
_EXTENSION = r"(?:[ ,]{0,2}(?:x|ext\.?)[ ]?[0-9]{1,6})?"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PHONE_WORDS = (
    "phone|phones|tel|telefon|telefono|telephone|mobile|mobil|cellphone|fax|sms|whatsapp|hotline|telefone"
    "|celular|movil|gsm"
)
# Words of much else: a call of a tool, the chair of an office, the dial of a watch.
_PHONE_CLOSE = (
    "call|calls|calling|called|dial|reach|contact|answering|ring|rang|cell|handy|cep|office|text"
)
_ID_WORDS = "identity|identification|national|citizen"


def _phone(pattern: str, **rest: object) -> Detector:
    shape = {"name": "PHONE", "entity": "PHONE_NUMBER", "tier": "B shape", "pattern": pattern}
    return msgspec.convert({"normal": checks.phone_norm, **shape, **rest}, Detector, strict=False)


def _national(
    name: str, pattern: str, module: str, near: str = "", *, alone: bool | None = None
) -> Detector:
    return _row(name, pattern, stdnum(module), near, alone=alone)


def _row(
    name: str, pattern: str, valid: Callable[[str], bool] | None, near: str = "", *,
    alone: bool | None = None, tier: str = "B checksum", edges: bool = True,
) -> Detector:  # fmt: skip
    return Detector(
        name=name, pattern=pattern, valid=valid, normal=alnum, near=near, tier=tier, edges=edges,
        alone=bool(near) if alone is None else alone,
    )  # fmt: skip


_SECRETS = (
    Detector(
        name="PRIVATE_KEY", tier="A prefix",
        pattern=r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=\s\\]*"
        r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
    ),
    Detector(
        name="JWT", tier="A prefix", fit=checks.behind_underscore,
        pattern=r"(?:\b|_)eyJ[A-Za-z0-9_-]{8,}\.(?:eyJ[A-Za-z0-9_-]{4,}|[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+)"
        r"(?:\.[A-Za-z0-9_-]*){1,3}",
    ),
    Detector(
        name="SECRET", entity="API_KEY", tier="A prefix", pattern=rf"(?:\b|_)(?:{'|'.join(_KEYS)})",
        valid=checks.varied, fit=checks.behind_underscore,
    ),
    Detector(name="SECRET", entity="API_KEY", tier="A prefix", pattern=_HOOK),
    Detector(
        name="BEARER", tier="A prefix",
        pattern=r"(?i:\b(?:bearer|authorization: ?(?:basic|token)) )[A-Za-z0-9._~+/=-]{16,}",
    ),
    Detector(
        name="URL_PASSWORD", tier="A prefix", needs=b"://",
        pattern=r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://(?:[^\s/:@?#]{0,128}:[^\s/@?#]{1,256}"
        rf"|[A-Za-z0-9{UNDERSCORE}-]{{24,256}})@",
    ),
    Detector(
        name="URL_SECRET", tier="A prefix",
        pattern=r"(?i)[?&](?:[a-z_-]{0,20}(?:key|token|secret|password|passwd|signature)|sig|auth|pwd"
        r"|x-amz-(?:signature|credential|security-token))=(?P<value>[^\s&#\"'<>\\]{6,512})",
    ),
    Detector(
        name="SECRET", entity="SECRET", tier="A prefix",
        pattern=rf"(?i)(?:(?:\b|_)[a-z0-9]{{0,24}}{_NAMED}[\"']?[ ]{{0,3}}(?:=>|:=|==?|:|is)|\B--{_NAMED} )"
        r"[ ]{0,3}[\"']?(?P<value>"
        r"[^\s\"',;&<>\\(){}\[\]]{6,256})",
        valid=lambda text: any(c.isdigit() for c in text) and not text.startswith("$"), run=True,
    ),
    Detector(
        name="SECRET", entity="CRYPTO_KEY",
        pattern=r"\b(?:[5KL9c][1-9A-HJ-NP-Za-km-z]{50,51}|[xyzt]prv[1-9A-HJ-NP-Za-km-z]{107})\b",
        valid=checks.wif,
    ),
)  # fmt: skip

_MONEY = (
    # Thirteen digits with a date among them: before cards, which had thirteen once.
    _row("ZA_ID_NUMBER", r"\b[0-9]{2}[01][0-9][0-3][0-9]{5}[0-2][89][0-9]\b", checks.id_za),
    Detector(
        name="IBAN", entity="IBAN_CODE", valid=checks.iban, normal=alnum, fit=checks.iban_cut,
        pattern=r"\b[A-Za-z]{2}[0-9]{2}(?:[ .-]?[A-Za-z0-9]){11,30}\b",
    ),
    Detector(
        name="CARD", entity="CREDIT_CARD", valid=checks.card, normal=digits, trim=True,
        pattern=r"\b(?:[0-9]{12,19}|[0-9]{4}(?:[ .-][0-9]{4}){2,3}(?:[ .-][0-9]{1,4})?"
        r"|[0-9]{4}[ .-][0-9]{6}[ .-][0-9]{4,5})\b",
    ),
    Detector(
        name="CARD", entity="CREDIT_CARD", valid=checks.luhn, normal=digits, edges=True,
        pattern=r"\b[0-9]{12,19}\b", near="card|cards|credit|debit|visa|mastercard|amex|pan",
    ),
    Detector(
        name="CRYPTO", valid=checks.crypto,
        pattern=r"\b(?:[13LMDTAX9r7t][1-9A-HJ-NP-Za-km-z]{25,34}"
        r"|(?i:bc1|tb1|ltc1)[02-9ac-hj-np-zAC-HJ-NP-Z]{11,87}|0[xX][0-9a-fA-F]{40})\b",
    ),
)  # fmt: skip

_NATIONAL = (
    _national("IT_FISCAL_CODE", r"(?i)\b[A-Z]{6}[0-9][0-9LMNPQRSTUV][A-EHLMPRST][0-9LMNPQRSTUV]{2}"
              r"[A-Z][0-9LMNPQRSTUV]{3}[A-Z]\b", "it.codicefiscale"),
    # A letter mistyped is still somebody's: nothing else has this shape.
    _row("IT_FISCAL_CODE", r"(?i)\b[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-7][0-9][A-Z][0-9]{3}[A-Z]\b", None,
         tier="B shape"),
    _row("UK_DRIVING_LICENCE", r"(?i)\b[A-Z](?:[A-Z]{4}|[A-Z]{3}9|[A-Z]{2}9{2}|[A-Z]9{3})[0-9]"
         r"(?:[05][1-9]|[16][0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9][A-Z][A-Z9][A-Z0-9]{3}\b", None,
         tier="B shape"),
    _row("UK_DRIVING_LICENCE", r"(?i)\b[A-Z](?:[A-Z]{4}|[A-Z]{3}9|[A-Z]{2}9{2}|[A-Z]9{3})[0-9]"
         r"(?:[05][1-9]|[16][0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9][A-Z9]{2}[A-Z0-9]{3}\b", None,
         tier="B shape"),
    _row("FI_PERSONAL_IDENTITY_CODE",
         r"(?i)[0-3][0-9][01][0-9]{3}[-+YXWVUABCDEF][0-9]{3}[0-9A-FHJ-NPR-Y]\b", checks.hetu_fi),
    _row("DE_SOCIAL_SECURITY", r"(?i)\b[0-9]{2} ?[0-9]{6} ?[A-Z] ?[0-9]{3}\b", checks.rvnr_de),
    _national("ES_NIE", r"(?i)\b[XYZ]-?[0-9]{7}-?[A-Z]\b", "es.nie"),
    _row("ES_NIF", r"(?i)\b[0-9]{8}-?[A-Z]\b", checks.dni_es),
    _row("SG_NRIC_FIN", r"(?i)\b[STFGM][0-9]{7}[A-Z]\b", checks.nric_sg),
    _row("US_MBI", r"(?i)\b[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y][0-9][ -]?[AC-HJKMNP-RT-Y]"
         r"[0-9AC-HJKMNP-RT-Y][0-9][ -]?[AC-HJKMNP-RT-Y]{2}[0-9]{2}\b", None, tier="B shape"),
    _row("UK_NINO", r"(?i)\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ -]?[0-9]{2}"
         r"[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[A-D]\b", checks.nino, tier="B shape"),
    _row("VIN", r"(?i)\b[A-HJ-NPR-Z0-9]{17}\b", checks.vin),
    _national("IN_GSTIN", r"(?i)\b[0-3][0-9][A-Z]{5}[0-9]{4}[A-Z][0-9A-Z]Z[0-9A-Z]\b", "in_.gstin"),
    _row("IN_GSTIN", r"(?i)\b(?:0[1-9]|[12][0-9]|3[0-7])[A-Z]{5}[0-9]{4}[A-Z][1-9A-Z]Z[0-9A-Z]\b", None,
         tier="B shape"),
    _row("IN_PAN", r"\b[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]\b", None, tier="B shape"),
    _national("MX_CURP", r"(?i)\b[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]\b", "mx.curp"),
    _national("DE_VAT_ID", r"(?i)\bDE[ .]?[0-9]{3}[ .]?[0-9]{3}[ .]?[0-9]{3}\b", "de.vat"),
    _row("KR_RRN", r"\b[0-9]{6}-[1-4][0-9]{6}\b", checks.rrn_kr, tier="B shape"),
    _row("KR_FRN", r"\b[0-9]{6}-[5-8][0-9]{6}\b", checks.rrn_kr, tier="B shape"),
    _national("BR_CPF", r"\b[0-9]{3}\.[0-9]{3}\.[0-9]{3}[-. ]?[0-9]{2}\b", "br.cpf"),
    _national("BR_CNPJ", r"\b[0-9]{2}\.[0-9]{3}\.[0-9]{3}/?[0-9]{4}[-. ]?[0-9]{2}\b", "br.cnpj"),
    _national("CH_AHV", r"\b756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}\b", "ch.ssn"),
    _national("FR_NIR", r"(?i)\b[1278](?:[ -]?[0-9]{2}){2}[ -]?[0-9][0-9AB][ -]?[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{2}\b"
              r"|\b[1278](?:\.[0-9]{2}){2}\.[0-9][0-9AB]\.[0-9]{3}\.[0-9]{3}\.[0-9]{2}\b",
              "fr.nir"),
    _row("SE_PERSONNUMMER", r"\b(?:18|19|20)[0-9]{6}[-+]?[0-9]{4}\b", checks.personnummer_se),
    _row("SE_PERSONNUMMER", r"\b[0-9]{6}[-+][0-9]{4}\b", checks.personnummer_se),
    _national("SE_ORGANISATIONSNUMMER", r"\b[1-35-9][0-9][2-9][0-9]{3}-[0-9]{4}\b", "se.orgnr"),
    _row("TH_TNIN", r"\b[1-8][ -][0-9]{4}[ -][0-9]{5}[ -][0-9]{2}[ -][0-9]\b", checks.pin_th),
)  # fmt: skip

_SHAPES = (
    Detector(
        name="EMAIL", entity="EMAIL_ADDRESS", tier="B shape", normal=str.casefold,
        pattern=r"[A-Za-z0-9_][A-Za-z0-9._%+'=/!#$&*?^`{|}~-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.)"
        r"{1,8}(?:[A-Za-z]{2,24}|[xX][nN]--[A-Za-z0-9-]{2,59})",
    ),
    Detector(
        name="MAC", entity="MAC_ADDRESS", tier="B shape", valid=checks.mac, normal=alnum, edges=True,
        pattern=r"(?i)\b(?:[0-9A-F]{2}:[0-9A-F]{2}:[0-9A-F]{2}:[0-9A-F]{2}:[0-9A-F]{2}:[0-9A-F]{2}"
        r"|[0-9A-F]{2}-[0-9A-F]{2}-[0-9A-F]{2}-[0-9A-F]{2}-[0-9A-F]{2}-[0-9A-F]{2}"
        r"|[0-9A-F]{4}\.[0-9A-F]{4}\.[0-9A-F]{4})\b",
    ),
    Detector(
        name="IP", entity="IP_ADDRESS", tier="B shape", valid=checks.ip, normal=checks.ip_norm,
        pattern=r"[0-9A-Za-z_:.]{0,40}:[0-9A-Fa-f]{0,4}:[0-9A-Za-z_:.]{0,41}(?:/[0-9]{1,3})?", fit=checks.ip_cut,
        run=True,
    ),
    Detector(
        name="IP", entity="IP_ADDRESS", tier="B shape", normal=checks.ip_norm,
        pattern=rf"\b(?:{_OCTET}\.){{3}}{_OCTET}(?:/(?:3[0-2]|[12]?[0-9]))?\b", edges=True,
    ),
    Detector(
        name="SSN", entity="US_SSN", tier="B shape", valid=checks.ssn, normal=digits, edges=True, listed=True,
        pattern=r"\b(?:[0-9]{3}-[0-9]{2}-[0-9]{4}|[0-9]{3}\.[0-9]{2}\.[0-9]{4}"
        r"|[0-9]{3} [0-9]{2} [0-9]{4})\b",
    ),
    Detector(
        name="US_ITIN", tier="B shape", valid=checks.itin, normal=digits, edges=True,
        pattern=r"\b9[0-9]{2}[- .][5-9][0-9][- .][0-9]{4}\b",
    ),
    _phone(r"\+ ?\(?[1-9](?:[ .()/-]{0,2}[0-9]){6,14}" + _EXTENSION + r"\b",
           fit=checks.international, cost=10),
    _phone(r"\b00[1-9][0-9]{0,2}[ .-](?:[ .()-]{0,2}[0-9]){6,13}" + _EXTENSION + r"\b",
           fit=checks.international, edges=True, late=True, listed=True, cost=10),
    Detector(
        name="GEO", entity="GEO_COORDINATES", tier="B shape", valid=checks.geo, edges=True,
        pattern=r"-?\b[0-9]{1,2}\.[0-9]{4,10} ?[,;] ?-?[0-9]{1,3}\.[0-9]{4,10}\b",
        near="lat|latitude|lon|lng|longitude|gps|geo|coordinate|coordinates|coords|location|located|position",
        alone=True,
    ),
    Detector(
        name="DOB", entity="DATE_OF_BIRTH", tier="B shape", pattern=_DATE, normal=str.casefold,
        valid=checks.birthday, run=True,
        near="born|birth|birthday|birthdate|dob|geboren|geburtsdatum|naissance|nacimiento|nascita"
        "|nascimento|bday",
    ),
)  # fmt: skip

# Numbers that thousands of other numbers look like: words near, or nothing else in the message.
_WEAK = (
    _row("ABA_ROUTING_NUMBER", r"\b(?:0[0-9]|1[0-2]|2[1-9]|3[0-2]|6[1-9]|7[0-2]|80)[0-9]{2}-?[0-9]{4}-?"
         r"[0-9]\b", checks.aba, "aba|routing|rtn|transit|wire"),
    _row("US_NPI", r"\b[12][0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}\b", checks.npi, "npi|provider|prescriber"),
    _row("MEDICAL_LICENSE", r"(?i)\b[ABCDEFGHJKLMPRSTUX][A-Z9][0-9]{7}\b", checks.dea,
         "dea|medical|prescriber|certificate|registration"),
    _national("UK_NHS", r"\b[0-9]{3}[ .-]?[0-9]{3}[ .-]?[0-9]{4}\b", "gb.nhs", "nhs|health"),
    _national("CA_SIN", r"\b[1-79][0-9]{2}(?: [0-9]{3} |-[0-9]{3}-|[0-9]{3})[0-9]{3}\b", "ca.sin",
              "sin|nas|social|insurance|assurance"),
    _national("AU_ABN", r"\b[0-9]{2}[ .-]?[0-9]{3}[ .-]?[0-9]{3}[ .-]?[0-9]{3}\b", "au.abn", "abn|business|gst"),
    _national("AU_ACN", r"\b[0-9]{3}[ .-]?[0-9]{3}[ .-]?[0-9]{3}\b", "au.acn", "acn|company"),
    _row("AU_TFN", r"\b[0-9]{3}[ .-]?[0-9]{3}[ .-]?[0-9]{3}\b", checks.tfn_au, "tfn|tax"),
    _row("AU_MEDICARE", r"\b[2-6][0-9]{3}[ .-]?[0-9]{5}[ .-]?[0-9]\b", checks.medicare_au, "medicare"),
    _national("IN_AADHAAR", r"\b[2-9][0-9]{3}[ :-]?[0-9]{4}[ :-]?[0-9]{4}\b", "in_.aadhaar",
              "aadhaar|aadhar|uidai|uid"),
    _row("KR_RRN", r"\b[0-9]{6} ?[1-4][0-9]{6}\b", checks.rrn_kr, "rrn|korean|resident", tier="B shape"),
    _row("KR_FRN", r"\b[0-9]{6} ?[5-8][0-9]{6}\b", checks.rrn_kr, "frn|korean|foreigner", tier="B shape"),
    _row("TH_TNIN", r"\b[1-8][0-9]{12}\b", checks.pin_th, f"tnin|thai|{_ID_WORDS}"),
    _national("TR_NATIONAL_ID", r"\b[1-9][0-9]{10}\b", "tr.tckimlik", f"tckn|kimlik|tc|turkish|{_ID_WORDS}"),
    _row("PL_PESEL", r"\b[0-9]{11}\b", checks.pesel_pl, "pesel"),
    _row("DE_TAX_ID", r"\b[1-9][0-9][ /-]?[0-9]{3}[ /-]?[0-9]{3}[ /-]?[0-9]{3}\b", checks.idnr_de,
         "idnr|steuer|steuernummer|steueridentifikationsnummer|tax|tin"),
    _national("IT_VAT_CODE", rf"\b[0-9]{{5,8}}{UNDERSCORE}?[0-9]{{3,6}}\b", "it.iva", "iva|vat|partita|piva"),
    _row("KR_BRN", r"\b[0-9]{3}[ .-]?[0-9]{2}[ .-]?[0-9]{5}\b", checks.brn_kr, "brn|business|korean"),
    _national("SE_ORGANISATIONSNUMMER", r"\b[1-35-9][0-9][2-9][0-9]{3}[ -]?[0-9]{4}\b", "se.orgnr",
              "organisationsnummer|orgnr|org|swedish"),
    _row("SE_PERSONNUMMER", r"\b(?:18|19|20)?[0-9]{6} ?[0-9]{4}\b", checks.personnummer_se,
         "personnummer|pnr", alone=False),
    _row("DE_LANR", r"\b[0-9]{9}\b", checks.lanr_de, "lanr|arztnummer|arzt"),
    _row("DE_PASSPORT", r"(?i)\b[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{7}[0-9]\b", checks.icao_de,
         "reisepass|passport|passnummer|pass"),
    _row("DE_ID_CARD", r"(?i)\b[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}[0-9]\b", checks.icao_de,
         "personalausweis|ausweis|ausweisnummer|identity"),
    _national("NL_BSN", r"\b(?:[0-9]{4}\.[0-9]{2}\.[0-9]{3}|[0-9]{3}[ .]?[0-9]{3}[ .]?[0-9]{3})\b", "nl.bsn", "bsn|burgerservicenummer|sofinummer", alone=False),
    _national("BE_NN", r"\b[0-9]{2}\.?[0-9]{2}\.?[0-9]{2}[ .-]?[0-9]{3}[ .-]?[0-9]{2}\b", "be.nn",
              "rijksregisternummer|registre|national|niss|insz"),
    _national("DK_CPR", r"\b[0-3][0-9][01][0-9]{3}[ -]?[0-9]{4}\b", "dk.cpr", "cpr|personnummer", alone=False),
    _national("NO_FODSELSNUMMER", r"\b[0-7][0-9][0-9]{4}[ -]?[0-9]{5}\b", "no.fodselsnummer",
              "fodselsnummer|fnr|personnummer|norwegian"),
    _national("BR_CPF", r"\b[0-9]{11}\b", "br.cpf", "cpf"),
    _national("PT_NIF", r"\b[1-35689][0-9]{2}[ .]?[0-9]{3}[ .]?[0-9]{3}\b", "pt.nif", "nif|contribuinte", alone=False),
    _national("IL_ID", r"\b[0-9]{8}-?[0-9]\b", "il.idnr", "israeli|teudat|zehut", alone=False),
    _national("NG_NIN", r"\b[1-9][0-9]{10}\b", "verhoeff", "nin|nigerian"),
    _national("NG_NIN", r"\b0[0-9]{10}\b", "verhoeff", "nin|nigerian", alone=False),
    _row("ES_NIF", r"(?i)\b[0-9]{7}-?[A-Z]\b", checks.dni_es, "nif|dni"),
    _national("SG_UEN", r"(?i)\b(?:[0-9]{8,9}[A-Z]|[TSR][0-9]{2}[A-Z]{2}[0-9]{4}[A-Z])\b", "sg.uen",
              "uen|singapore|company|registration"),
    _row("SG_NRIC_FIN", r"(?i)\b[A-Z][0-9]{7}[A-Z]\b", None, "nric|fin|singapore", tier="B shape"),
    _row("DE_HEALTH_INSURANCE", r"(?i)\b[A-Z][0-9]{9}\b", checks.kvnr_de,
         "kvnr|egk|krankenversicherung|krankenkasse|versichertennummer|krankenversichertennummer"),
    _row("DE_FUEHRERSCHEIN", r"(?i)\b[A-CE-Z][A-Z][0-9]{8}[A-Z0-9]\b", None,
         "fuhrerschein|fuhrerscheinnummer|fahrerlaubnis", tier="B shape"),
    _row("DE_VAT_ID", r"(?i)\bDE ?[0-9]{9}\b", None, "ust|ustid|ustidnr|umsatzsteuer|vat|mwst",
         tier="B shape"),
    _national("BR_CNPJ", r"\b[0-9]{14}\b", "br.cnpj", "cnpj"),
    _row("IN_PAN", r"(?i)\b[A-Z]{5}[0-9]{4}[A-Z]\b", None, "pan|income", tier="B shape"),
    Detector(name="US_ITIN", tier="B shape", valid=checks.itin, normal=digits, edges=True, alone=True,
             pattern=r"\b9[0-9]{2}[5-9][0-9]{5}\b", near="itin|taxpayer|tax"),
    Detector(name="SSN", entity="US_SSN", tier="B shape", valid=checks.ssn, normal=digits, edges=True, alone=True,
             pattern=r"\b[0-9]{9}\b", near="ssn|ssns|social|socials"),
    Detector(
        name="PASSPORT", tier="B shape", normal=alnum, edges=True,
        pattern=r"(?i)\b(?:[A-Z]{0,3}[0-9]{6,9}|[A-Z][0-9]{3}[A-Z][0-9]{4}|[0-9]{2}[A-Z]{2}[0-9]{5})\b",
        near="passport|passports|pasaporte|passeport|passaporto|reisepass|passaporte|paspoort",
    ),
    Detector(
        name="DRIVER_LICENSE", entity="US_DRIVER_LICENSE", tier="B shape", normal=alnum, edges=True,
        pattern=r"(?i)\b(?:[A-Z]{0,3}[ -]?[0-9]{2,14}[A-Z]{0,2}(?:-[0-9]{2,6}){0,3})\b",
        valid=lambda text: len(digits(text)) >= 5,
        near="license|licence|licenses|licences|driver|drivers|driving|fuhrerschein|fuhrerscheinnummer|patente",
    ),
    Detector(
        name="BANK_ACCOUNT", entity="US_BANK_NUMBER", tier="B shape", normal=digits, edges=True,
        pattern=r"\b[0-9]{8,17}\b", near="bank|checking|savings|iban|acct",
    ),
    _phone(r"(?:\(?\+?\(?\b|\()[0-9](?:[ .()/-]{0,2}[0-9]){5,14}" + _EXTENSION + r"\b",
           valid=checks.phone, near=_PHONE_WORDS, close=_PHONE_CLOSE, edges=True, listed=True),
)  # fmt: skip

# What every number that is something else has been taken from before.
_LATE = (
    _phone(r"(?:\b[0-9]{1,3}[.-]|\b1 )?(?:\([0-9]{3}\)[ .-]{0,2}|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}"
           + _EXTENSION + r"\b", edges=True, late=True, listed=True),
    _phone(r"(?i)\b(?:my|his|her|their|our) (?:[a-z]{2,12} )?(?:number|no) is (?P<value>\+?[0-9]{7,15})\b",
           late=True),
    _phone(r"(?:\b|\()0(?:[ .()/-]{0,2}[0-9]){7,11}\b", valid=checks.national_phone, cost=10,
           near="number|numero|nummer|no|nr|num", alone=True, edges=True, late=True, listed=True),
    _phone(r"(?:\b|\()[1-9](?:[ .()/-]{0,2}[0-9]){6,11}\b", valid=checks.national_phone, cost=10,
           near=_PHONE_WORDS, close=_PHONE_CLOSE, alone=True, edges=True, late=True, listed=True),
)  # fmt: skip

# The order is the order of decision: what an earlier row has taken, a later one does not see.
DETECTORS: tuple[Detector, ...] = (
    *_SECRETS, *_MONEY, *_SHAPES[:4], *_NATIONAL, *_SHAPES[4:], *_WEAK, *_LATE,
)  # fmt: skip
STRONG = tuple(d for d in DETECTORS if not d.near and not d.late)
WEAK = tuple(d for d in DETECTORS if d.near and not d.late)
LATE = tuple(d for d in DETECTORS if d.late)
