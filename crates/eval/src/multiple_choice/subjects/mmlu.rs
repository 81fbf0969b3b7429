//! MMLU's 57 subjects with their subcategories and groups, as its authors publish results.
//!
//! lm-eval counts `anatomy` as STEM; its makers count it, as here, under `other`.

use super::Known;

/// In the order that results are published in.
pub(super) const GROUPS: [&str; 4] = [STEM, HUMANITIES, SOCIAL, OTHER];

const STEM: &str = "STEM";
const HUMANITIES: &str = "humanities";
const SOCIAL: &str = "social sciences";
const OTHER: &str = "other (business, health, misc.)";

pub(super) const SUBJECTS: [Known; 57] = [
    Known::within("abstract_algebra", "abstract algebra", STEM, "math"),
    Known::within("anatomy", "anatomy", OTHER, "health"),
    Known::within("astronomy", "astronomy", STEM, "physics"),
    Known::within("business_ethics", "business ethics", OTHER, "business"),
    Known::within("clinical_knowledge", "clinical knowledge", OTHER, "health"),
    Known::within("college_biology", "college biology", STEM, "biology"),
    Known::within("college_chemistry", "college chemistry", STEM, "chemistry"),
    Known::within("college_computer_science", "college computer science", STEM, "computer science"),
    Known::within("college_mathematics", "college mathematics", STEM, "math"),
    Known::within("college_medicine", "college medicine", OTHER, "health"),
    Known::within("college_physics", "college physics", STEM, "physics"),
    Known::within("computer_security", "computer security", STEM, "computer science"),
    Known::within("conceptual_physics", "conceptual physics", STEM, "physics"),
    Known::within("econometrics", "econometrics", SOCIAL, "economics"),
    Known::within("electrical_engineering", "electrical engineering", STEM, "engineering"),
    Known::within("elementary_mathematics", "elementary mathematics", STEM, "math"),
    Known::within("formal_logic", "formal logic", HUMANITIES, "philosophy"),
    Known::within("global_facts", "global facts", OTHER, "other"),
    Known::within("high_school_biology", "high school biology", STEM, "biology"),
    Known::within("high_school_chemistry", "high school chemistry", STEM, "chemistry"),
    Known::within("high_school_computer_science", "high school computer science", STEM, "computer science"),
    Known::within("high_school_european_history", "high school european history", HUMANITIES, "history"),
    Known::within("high_school_geography", "high school geography", SOCIAL, "geography"),
    Known::within(
        "high_school_government_and_politics",
        "high school government and politics",
        SOCIAL,
        "politics",
    ),
    Known::within("high_school_macroeconomics", "high school macroeconomics", SOCIAL, "economics"),
    Known::within("high_school_mathematics", "high school mathematics", STEM, "math"),
    Known::within("high_school_microeconomics", "high school microeconomics", SOCIAL, "economics"),
    Known::within("high_school_physics", "high school physics", STEM, "physics"),
    Known::within("high_school_psychology", "high school psychology", SOCIAL, "psychology"),
    Known::within("high_school_statistics", "high school statistics", STEM, "math"),
    Known::within("high_school_us_history", "high school us history", HUMANITIES, "history"),
    Known::within("high_school_world_history", "high school world history", HUMANITIES, "history"),
    Known::within("human_aging", "human aging", OTHER, "health"),
    Known::within("human_sexuality", "human sexuality", SOCIAL, "culture"),
    Known::within("international_law", "international law", HUMANITIES, "law"),
    Known::within("jurisprudence", "jurisprudence", HUMANITIES, "law"),
    Known::within("logical_fallacies", "logical fallacies", HUMANITIES, "philosophy"),
    Known::within("machine_learning", "machine learning", STEM, "computer science"),
    Known::within("management", "management", OTHER, "business"),
    Known::within("marketing", "marketing", OTHER, "business"),
    Known::within("medical_genetics", "medical genetics", OTHER, "health"),
    Known::within("miscellaneous", "miscellaneous", OTHER, "other"),
    Known::within("moral_disputes", "moral disputes", HUMANITIES, "philosophy"),
    Known::within("moral_scenarios", "moral scenarios", HUMANITIES, "philosophy"),
    Known::within("nutrition", "nutrition", OTHER, "health"),
    Known::within("philosophy", "philosophy", HUMANITIES, "philosophy"),
    Known::within("prehistory", "prehistory", HUMANITIES, "history"),
    Known::within("professional_accounting", "professional accounting", OTHER, "other"),
    Known::within("professional_law", "professional law", HUMANITIES, "law"),
    Known::within("professional_medicine", "professional medicine", OTHER, "health"),
    Known::within("professional_psychology", "professional psychology", SOCIAL, "psychology"),
    Known::within("public_relations", "public relations", SOCIAL, "politics"),
    Known::within("security_studies", "security studies", SOCIAL, "politics"),
    Known::within("sociology", "sociology", SOCIAL, "culture"),
    Known::within("us_foreign_policy", "us foreign policy", SOCIAL, "politics"),
    Known::within("virology", "virology", OTHER, "health"),
    Known::within("world_religions", "world religions", HUMANITIES, "philosophy"),
];
