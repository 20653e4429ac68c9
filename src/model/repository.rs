//! tmp
use super::Served;
pub struct Repository {}
pub struct IndexEntry { pub name: String, pub version: u32 }
impl Repository {
    pub fn index(&self) -> std::io::Result<Vec<IndexEntry>> { todo!() }
    pub fn load(&self, _: &str) -> Result<Served, String> { todo!() }
}
