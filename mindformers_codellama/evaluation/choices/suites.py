"""What MMLU and C-Eval are: subjects, categories, and the words of their prompts.

Sources: MMLU: Hendrycks et al., arXiv 2009.03300, `categories.py` and `evaluate.py` of github.com/hendrycks/test. C-Eval: Huang et
al., arXiv 2305.08322, `subject_mapping.json` and `code/evaluator_series/evaluators/llama.py` of github.com/hkust-nlp/ceval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Subject:
    """One subject of a suite."""

    title: str
    """As the prompt names it."""
    category: str


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite of multiple-choice questions with four answers each."""

    name: str
    title: str
    subjects: Mapping[str, Subject]
    """Name in file names to subject, in alphabetical order."""
    categories: tuple[str, ...]
    has_header: bool
    """Its CSV files begin with a line of column names."""
    head: str
    """First words of a prompt; `{}` is the subject's title."""
    cue: str
    """Behind the four answers."""
    lead: str
    """Between the cue and the letter of an answer."""
    split: str
    """Where the questions come from when nothing is said."""
    averages_subjects: bool
    """The suite's own average is the mean over subjects (macro), not over questions (micro)."""


_MMLU = {
    "STEM": {
        "physics": "astronomy college_physics conceptual_physics high_school_physics",
        "chemistry": "college_chemistry high_school_chemistry",
        "biology": "college_biology high_school_biology",
        "computer science": "college_computer_science computer_security high_school_computer_science machine_learning",
        "math": "abstract_algebra college_mathematics elementary_mathematics high_school_mathematics high_school_statistics",
        "engineering": "electrical_engineering",
    },
    "humanities": {
        "history": "high_school_european_history high_school_us_history high_school_world_history prehistory",
        "philosophy": "formal_logic logical_fallacies moral_disputes moral_scenarios philosophy world_religions",
        "law": "international_law jurisprudence professional_law",
    },
    "social sciences": {
        "politics": "high_school_government_and_politics public_relations security_studies us_foreign_policy",
        "culture": "human_sexuality sociology",
        "economics": "econometrics high_school_macroeconomics high_school_microeconomics",
        "geography": "high_school_geography",
        "psychology": "high_school_psychology professional_psychology",
    },
    "other (business, health, misc.)": {
        "other": "global_facts miscellaneous professional_accounting",
        "business": "business_ethics management marketing",
        "health": "anatomy clinical_knowledge college_medicine human_aging medical_genetics nutrition professional_medicine virology",
    },
}
"""Category to subcategory to subjects."""

_CEVAL = {
    "STEM": {
        "computer_network": "计算机网络",
        "operating_system": "操作系统",
        "computer_architecture": "计算机组成",
        "college_programming": "大学编程",
        "college_physics": "大学物理",
        "college_chemistry": "大学化学",
        "advanced_mathematics": "高等数学",
        "probability_and_statistics": "概率统计",
        "discrete_mathematics": "离散数学",
        "electrical_engineer": "注册电气工程师",
        "metrology_engineer": "注册计量师",
        "high_school_mathematics": "高中数学",
        "high_school_physics": "高中物理",
        "high_school_chemistry": "高中化学",
        "high_school_biology": "高中生物",
        "middle_school_mathematics": "初中数学",
        "middle_school_biology": "初中生物",
        "middle_school_physics": "初中物理",
        "middle_school_chemistry": "初中化学",
        "veterinary_medicine": "兽医学",
    },
    "Social Science": {
        "college_economics": "大学经济学",
        "business_administration": "工商管理",
        "marxism": "马克思主义基本原理",
        "mao_zedong_thought": "毛泽东思想和中国特色社会主义理论体系概论",
        "education_science": "教育学",
        "teacher_qualification": "教师资格",
        "high_school_politics": "高中政治",
        "high_school_geography": "高中地理",
        "middle_school_politics": "初中政治",
        "middle_school_geography": "初中地理",
    },
    "Humanities": {
        "modern_chinese_history": "近代史纲要",
        "ideological_and_moral_cultivation": "思想道德修养与法律基础",
        "logic": "逻辑学",
        "law": "法学",
        "chinese_language_and_literature": "中国语言文学",
        "art_studies": "艺术学",
        "professional_tour_guide": "导游资格",
        "legal_professional": "法律职业资格",
        "high_school_chinese": "高中语文",
        "high_school_history": "高中历史",
        "middle_school_history": "初中历史",
    },
    "Other": {
        "civil_servant": "公务员",
        "sports_science": "体育学",
        "plant_protection": "植物保护",
        "basic_medicine": "基础医学",
        "clinical_medicine": "临床医学",
        "urban_and_rural_planner": "注册城乡规划师",
        "accountant": "注册会计师",
        "fire_engineer": "注册消防工程师",
        "environmental_impact_assessment_engineer": "环境影响评价工程师",
        "tax_accountant": "税务师",
        "physician": "医师资格",
    },
}

HARD = frozenset(
    "advanced_mathematics discrete_mathematics probability_and_statistics college_chemistry college_physics "
    "high_school_mathematics high_school_chemistry high_school_physics".split()
)
"""C-Eval Hard. Five of the names are subjects of MMLU too; the ATB scripts count those."""


def _ordered(subjects: Mapping[str, Subject]) -> Mapping[str, Subject]:
    return dict(sorted(subjects.items()))


MMLU = Suite(
    name="mmlu",
    title="MMLU",
    subjects=_ordered(
        {
            name: Subject(f" {name.replace('_', ' ')}", category)  # the space is there twice in the published prompt
            for category, parts in _MMLU.items()
            for names in parts.values()
            for name in names.split()
        }
    ),
    categories=tuple(_MMLU),
    has_header=False,
    head="The following are multiple choice questions (with answers) about {}.\n\n",
    cue="\nAnswer:",
    lead=" ",
    split="test",
    averages_subjects=False,
)
CEVAL = Suite(
    name="ceval",
    title="C-Eval",
    subjects=_ordered({name: Subject(title, category) for category, names in _CEVAL.items() for name, title in names.items()}),
    categories=tuple(_CEVAL),
    has_header=True,
    head="以下是中国关于{}考试的单项选择题，请选出其中的正确答案。\n\n",
    cue="\n答案：",
    lead="",
    split="val",
    averages_subjects=True,
)
