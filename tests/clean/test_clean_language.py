"""Languages: none of the short headlines that a detector alone gets wrong is refused."""

from __future__ import annotations

import pytest

from services.clean.language import detect


@pytest.mark.parametrize(
    "text",
    [
        "MMTC Q2 net loss",
        "Wockhardt, Lupin, Cadila: Sharekhan",
        "$CX - Cemex S.A.B. de C.V. Banorte",
        "Buy Karur Vysya Bank, TP Rs 510: Motilal Oswal",
        "Sensex +200",
        "LVMH Moët Hennessy Louis Vuitton Q3",
        "Volkswagen AG Vorzugsaktie ISIN DE0007664039",
        "Alibaba (阿里巴巴) shares jump",
        "El Salvador bond rally cools",
        "LA VIE EN ROSE: L'ORÉAL TOPS ESTIMATES",
    ],
)
def test_english(text: str) -> None:
    assert detect(text) == "en"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("沪铜主力合约夜盘大涨3.1%，库存降至五年低点", "zh"),
        ("$HLNX 财报电话会听完了，云业务 revenue 增速从 40% 掉到 12%", "zh"),
        ("日経平均は続伸、円安を好感", "ja"),
        ("삼성전자 3분기 영업이익 급증", "ko"),
        ("Чистая прибыль Сбербанка выросла", "ru"),
        ("ارتفعت أرباح البنك", "ar"),
        ("सेंसेक्स 200 अंक चढ़ा", "hi"),
        ("Die Aktie des Konzerns fiel nach der Gewinnwarnung um zehn Prozent", "de"),
        ("Le bénéfice du groupe a augmenté de 12% grâce à la demande dans les pays émergents", "fr"),
        ("La empresa perdió millones de euros por el cierre de su planta", "es"),
        ("A empresa não alterou sua estimativa para o ano e as ações caíram", "pt"),
    ],
)
def test_others(text: str, code: str) -> None:
    assert detect(text) == code


def test_the_sources_word_counts_only_where_the_text_is_silent() -> None:
    assert detect("Zrx Qwv Plk Mnb", "de-CH") == "de"
    assert detect("Shares of the bank fell after the results", "de") == "en"
