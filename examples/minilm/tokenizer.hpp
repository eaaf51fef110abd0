// WordPiece, as BERT (uncased) does it: text to the ids of vocabulary pieces, "embeddings" to
// "em ##bed ##ding ##s". The ids equal the reference's, on any text.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace minilm {

struct encoding {
  std::vector<int> ids;
  std::vector<std::string> pieces;  // one an id, "[CLS]" first and "[SEP]" last
};

class tokenizer {
 public:
  // The vocabulary: one piece a line, its id is the number of the line, from 0.
  explicit tokenizer(const std::filesystem::path& vocabulary);

  // At most max_tokens ids, [CLS] and [SEP] included; what does not fit is cut off.
  // A text that is not UTF-8 is refused.
  encoding encode(std::string_view utf8, std::size_t max_tokens = 256) const;

  std::size_t size() const { return pieces_.size(); }

 private:
  void append_word(std::string_view word, std::vector<int>& ids) const;

  std::vector<std::string> pieces_;
  std::unordered_map<std::string, int> ids_;
  std::size_t longest_piece_ = 0;  // in bytes
};

}  // namespace minilm
