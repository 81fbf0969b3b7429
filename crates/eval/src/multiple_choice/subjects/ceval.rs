//! C-Eval's 52 subjects: the names that its files have, those that prompts use, and their groups.

use super::Known;

/// In the order that results are published in.
pub(super) const GROUPS: [&str; 4] = [STEM, SOCIAL, HUMANITIES, OTHER];

const STEM: &str = "STEM";
const SOCIAL: &str = "Social Science";
const HUMANITIES: &str = "Humanities";
const OTHER: &str = "Other";

/// The older projects call one subject by a shorter name.
pub(super) const OLDER_NAMES: [(&str, &str); 1] =
    [("mao_zedong_thought", "毛泽东思想和中国特色社会主义理论概论")];

pub(super) const SUBJECTS: [Known; 52] = [
    Known::new("accountant", "注册会计师", OTHER),
    Known::new("advanced_mathematics", "高等数学", STEM),
    Known::new("art_studies", "艺术学", HUMANITIES),
    Known::new("basic_medicine", "基础医学", OTHER),
    Known::new("business_administration", "工商管理", SOCIAL),
    Known::new("chinese_language_and_literature", "中国语言文学", HUMANITIES),
    Known::new("civil_servant", "公务员", OTHER),
    Known::new("clinical_medicine", "临床医学", OTHER),
    Known::new("college_chemistry", "大学化学", STEM),
    Known::new("college_economics", "大学经济学", SOCIAL),
    Known::new("college_physics", "大学物理", STEM),
    Known::new("college_programming", "大学编程", STEM),
    Known::new("computer_architecture", "计算机组成", STEM),
    Known::new("computer_network", "计算机网络", STEM),
    Known::new("discrete_mathematics", "离散数学", STEM),
    Known::new("education_science", "教育学", SOCIAL),
    Known::new("electrical_engineer", "注册电气工程师", STEM),
    Known::new("environmental_impact_assessment_engineer", "环境影响评价工程师", OTHER),
    Known::new("fire_engineer", "注册消防工程师", OTHER),
    Known::new("high_school_biology", "高中生物", STEM),
    Known::new("high_school_chemistry", "高中化学", STEM),
    Known::new("high_school_chinese", "高中语文", HUMANITIES),
    Known::new("high_school_geography", "高中地理", SOCIAL),
    Known::new("high_school_history", "高中历史", HUMANITIES),
    Known::new("high_school_mathematics", "高中数学", STEM),
    Known::new("high_school_physics", "高中物理", STEM),
    Known::new("high_school_politics", "高中政治", SOCIAL),
    Known::new("ideological_and_moral_cultivation", "思想道德修养与法律基础", HUMANITIES),
    Known::new("law", "法学", HUMANITIES),
    Known::new("legal_professional", "法律职业资格", HUMANITIES),
    Known::new("logic", "逻辑学", HUMANITIES),
    Known::new("mao_zedong_thought", "毛泽东思想和中国特色社会主义理论体系概论", SOCIAL),
    Known::new("marxism", "马克思主义基本原理", SOCIAL),
    Known::new("metrology_engineer", "注册计量师", STEM),
    Known::new("middle_school_biology", "初中生物", STEM),
    Known::new("middle_school_chemistry", "初中化学", STEM),
    Known::new("middle_school_geography", "初中地理", SOCIAL),
    Known::new("middle_school_history", "初中历史", HUMANITIES),
    Known::new("middle_school_mathematics", "初中数学", STEM),
    Known::new("middle_school_physics", "初中物理", STEM),
    Known::new("middle_school_politics", "初中政治", SOCIAL),
    Known::new("modern_chinese_history", "近代史纲要", HUMANITIES),
    Known::new("operating_system", "操作系统", STEM),
    Known::new("physician", "医师资格", OTHER),
    Known::new("plant_protection", "植物保护", OTHER),
    Known::new("probability_and_statistics", "概率统计", STEM),
    Known::new("professional_tour_guide", "导游资格", HUMANITIES),
    Known::new("sports_science", "体育学", OTHER),
    Known::new("tax_accountant", "税务师", OTHER),
    Known::new("teacher_qualification", "教师资格", SOCIAL),
    Known::new("urban_and_rural_planner", "注册城乡规划师", OTHER),
    Known::new("veterinary_medicine", "兽医学", STEM),
];
