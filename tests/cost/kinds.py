"""Two texts of each kind: one to learn from, one to cut."""

# ruff: noqa: E501, ISC004  the texts are as long as they are

from __future__ import annotations

import itertools
import json

ENGLISH = (
    "Thank you for writing to us. I have looked at your account and can see that the second payment "
    "was taken on the same day as the first, which should not have happened. I have asked the bank "
    "to return it; you will see the money within five working days. If it is not there by then, "
    "answer this message and I will call them myself. I am sorry for the trouble this has caused.",
    "The parcel left our warehouse on Tuesday and was handed to the carrier the same evening; it is "
    "now on its way to you, and should arrive within two working days. If nobody is at home, the "
    "driver leaves a card with the address of the nearest shop, where it waits for a week. Refunds "
    "take three to five days after we have received the goods, and we will write to you then.",
)
GERMAN = (
    "Vielen Dank für Ihre Nachricht. Ich habe Ihr Kundenkonto geprüft und festgestellt, dass die "
    "zweite Abbuchung am selben Tag wie die erste erfolgt ist, was nicht hätte geschehen dürfen. Ich "
    "habe die Bank gebeten, den Betrag zurückzuüberweisen; er sollte innerhalb von fünf Werktagen "
    "eintreffen. Bitte entschuldigen Sie die entstandenen Unannehmlichkeiten.",
    "Das Paket hat unser Lager am Dienstag verlassen und wurde noch am selben Abend dem Zusteller "
    "übergeben; es ist nun unterwegs und sollte innerhalb von zwei Werktagen eintreffen. Wenn niemand "
    "zu Hause ist, hinterlässt der Fahrer eine Benachrichtigungskarte mit der Anschrift der nächsten "
    "Filiale. Rückerstattungen dauern nach Eingang der Ware gewöhnlich drei bis fünf Geschäftstage.",
)
CODE = (
    "class Window:\n"
    '    """A span of time, and what it holds."""\n\n'
    "    def __init__(self, begin: int, length: int) -> None:\n"
    "        self.begin, self.length = begin, length\n"
    "        self._rows: list[tuple[int, str]] = []\n\n"
    "    def add(self, at: int, row: str) -> bool:\n"
    "        if not self.begin <= at < self.begin + self.length:\n"
    "            return False\n"
    "        self._rows.append((at, row))\n"
    "        return True\n",
    "def settle(claims: list[Claim], used: int) -> int:\n"
    '    """Return what is left."""\n'
    "    left = 0\n"
    "    for i, claim in enumerate(claims):\n"
    "        if claim.open and claim.amount >= used:\n"
    "            left += claim.amount - used\n"
    "            claim.open = False\n"
    "        elif not claim.open:\n"
    '            raise ValueError(f"claim {i} was settled")\n'
    "    return left\n",
)
JSON = tuple(
    json.dumps({"order": n * 7041, "state": state, "items": [
        {"sku": f"A-{n + i}", "quantity": i, "price": 19.95 * n, "gift": i % 2 == 0}
        for i in range(6)
    ], "address": {"street": "12 Mill Lane", "city": city, "zip": "YO1 7PR"},
        "created_at": "2026-03-14T09:26:53Z"})
    for n, state, city in ((3, "returned", "Leeds"), (17, "sent", "York"))
)  # fmt: skip
CHINESE = (
    "感谢您的来信。我查看了您的账户,发现第二笔付款与第一笔是在同一天扣除的,这本不应该发生。我已请银行退回这笔"
    "款项,您将在五个工作日内收到。如果到时仍未到账,请回复此邮件,我会亲自与银行联系。给您带来的不便,我们深表歉意。",
    "您的包裹已于星期二离开我们的仓库,并在当天晚上交给了承运人;目前正在运送途中,预计两个工作日内送达。如果家中"
    "无人,司机会留下一张卡片,上面写有最近门店的地址,包裹会在那里保留一周。我们收到退货后,退款需要三到五天。",
)
JAPANESE = (
    "お問い合わせありがとうございます。アカウントを確認したところ、二回目のお支払いが一回目と同じ日に引き落とされて"
    "いました。本来あってはならないことです。銀行に返金を依頼しましたので、五営業日以内に届きます。",
    "お荷物は火曜日に当社の倉庫を出発し、同じ日の夜に運送会社へ引き渡されました。現在お届け先へ向かっており、二営業"
    "日以内に到着する予定です。ご不在の場合は、最寄りの店舗の住所を記したカードを残します。",
)
KINDS: dict[str, tuple[str, str]] = {
    "English": ENGLISH, "German": GERMAN, "code": CODE, "JSON": (JSON[0], JSON[1]),
    "Chinese": CHINESE, "Japanese": JAPANESE,
}  # fmt: skip


def chunks(text: str, n: int = 60) -> list[str]:
    """Return a text in `n` pieces."""
    size = len(text) / n
    cuts = [round(i * size) for i in range(n + 1)]
    return [text[a:b] for a, b in itertools.pairwise(cuts)]
