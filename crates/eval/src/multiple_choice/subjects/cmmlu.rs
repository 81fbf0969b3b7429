//! CMMLU's 67 subjects: the names that its files have, those that prompts use, and their groups. A subject that is
//! specific to China counts there alone.

use super::Known;

/// In the order that results are published in.
pub(super) const GROUPS: [&str; 5] = [STEM, HUMANITIES, SOCIAL, OTHER, CHINA];

const STEM: &str = "STEM";
const HUMANITIES: &str = "Humanities";
const SOCIAL: &str = "Social Science";
const OTHER: &str = "Other";
const CHINA: &str = "China specific";

pub(super) const SUBJECTS: [Known; 67] = [
    Known::new("agronomy", "农学", OTHER),
    Known::new("anatomy", "解剖学", STEM),
    Known::new("ancient_chinese", "古汉语", CHINA),
    Known::new("arts", "艺术学", HUMANITIES),
    Known::new("astronomy", "天文学", STEM),
    Known::new("business_ethics", "商业伦理", SOCIAL),
    Known::new("chinese_civil_service_exam", "中国公务员考试", CHINA),
    Known::new("chinese_driving_rule", "中国驾驶规则", CHINA),
    Known::new("chinese_food_culture", "中国饮食文化", CHINA),
    Known::new("chinese_foreign_policy", "中国外交政策", CHINA),
    Known::new("chinese_history", "中国历史", CHINA),
    Known::new("chinese_literature", "中国文学", CHINA),
    Known::new("chinese_teacher_qualification", "中国教师资格", CHINA),
    Known::new("clinical_knowledge", "临床知识", OTHER),
    Known::new("college_actuarial_science", "大学精算学", STEM),
    Known::new("college_education", "大学教育学", SOCIAL),
    Known::new("college_engineering_hydrology", "大学工程水文学", STEM),
    Known::new("college_law", "大学法律", HUMANITIES),
    Known::new("college_mathematics", "大学数学", STEM),
    Known::new("college_medical_statistics", "大学医学统计", STEM),
    Known::new("college_medicine", "大学医学", OTHER),
    Known::new("computer_science", "计算机科学", STEM),
    Known::new("computer_security", "计算机安全", OTHER),
    Known::new("conceptual_physics", "概念物理学", STEM),
    Known::new("construction_project_management", "建设工程管理", CHINA),
    Known::new("economics", "经济学", SOCIAL),
    Known::new("education", "教育学", SOCIAL),
    Known::new("electrical_engineering", "电气工程", STEM),
    Known::new("elementary_chinese", "小学语文", CHINA),
    Known::new("elementary_commonsense", "小学常识", CHINA),
    Known::new("elementary_information_and_technology", "小学信息技术", OTHER),
    Known::new("elementary_mathematics", "初等数学", STEM),
    Known::new("ethnology", "民族学", CHINA),
    Known::new("food_science", "食品科学", OTHER),
    Known::new("genetics", "遗传学", STEM),
    Known::new("global_facts", "全球事实", HUMANITIES),
    Known::new("high_school_biology", "高中生物", STEM),
    Known::new("high_school_chemistry", "高中化学", STEM),
    Known::new("high_school_geography", "高中地理", SOCIAL),
    Known::new("high_school_mathematics", "高中数学", STEM),
    Known::new("high_school_physics", "高中物理学", STEM),
    Known::new("high_school_politics", "高中政治", CHINA),
    Known::new("human_sexuality", "人类性行为", OTHER),
    Known::new("international_law", "国际法学", HUMANITIES),
    Known::new("journalism", "新闻学", SOCIAL),
    Known::new("jurisprudence", "法理学", HUMANITIES),
    Known::new("legal_and_moral_basis", "法律与道德基础", OTHER),
    Known::new("logical", "逻辑学", HUMANITIES),
    Known::new("machine_learning", "机器学习", STEM),
    Known::new("management", "管理学", SOCIAL),
    Known::new("marketing", "市场营销", SOCIAL),
    Known::new("marxist_theory", "马克思主义理论", HUMANITIES),
    Known::new("modern_chinese", "现代汉语", CHINA),
    Known::new("nutrition", "营养学", OTHER),
    Known::new("philosophy", "哲学", HUMANITIES),
    Known::new("professional_accounting", "专业会计", SOCIAL),
    Known::new("professional_law", "专业法学", HUMANITIES),
    Known::new("professional_medicine", "专业医学", OTHER),
    Known::new("professional_psychology", "专业心理学", SOCIAL),
    Known::new("public_relations", "公共关系", SOCIAL),
    Known::new("security_study", "安全研究", SOCIAL),
    Known::new("sociology", "社会学", SOCIAL),
    Known::new("sports_science", "体育学", OTHER),
    Known::new("traditional_chinese_medicine", "中医中药", CHINA),
    Known::new("virology", "病毒学", STEM),
    Known::new("world_history", "世界历史", HUMANITIES),
    Known::new("world_religions", "世界宗教", HUMANITIES),
];
