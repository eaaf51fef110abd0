// Memory that the engine works in, a buffer a thread, kept from call to call where the caller keeps
// the workspace.
#pragma once

#include <attn/config.hpp>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace attn::inline ATTN_ABI {

/// Buffers for the threads of a call. Give one to options.workspace to have calls share it: after
/// the first call of a kind, further ones allocate nothing. Several threads may call at once.
class workspace {
 public:
  /// Starts at a multiple of 64 bytes; goes back to the workspace when it is done with.
  class lease {
   public:
    lease(workspace& from, std::size_t bytes) : from_(from), buffer_(from.take(bytes)) {}
    lease(const lease&) = delete;
    lease& operator=(const lease&) = delete;
    ~lease() { from_.give_back(std::move(buffer_)); }

    [[nodiscard]] void* data() const { return buffer_.data.get(); }

   private:
    friend class workspace;
    struct release {
      void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
    };
    struct buffer {
      std::unique_ptr<std::byte[], release> data;
      std::size_t bytes = 0;
    };

    workspace& from_;
    buffer buffer_;
  };

  /// Bytes held, all buffers together.
  [[nodiscard]] std::size_t bytes() const {
    const std::scoped_lock lock(mutex_);
    std::size_t sum = 0;
    for (const auto& buffer : free_) sum += buffer.bytes;
    return sum;
  }

 private:
  lease::buffer take(std::size_t bytes) {
    lease::buffer taken;
    {
      const std::scoped_lock lock(mutex_);
      if (!free_.empty()) {
        taken = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (taken.bytes < bytes) {
      taken.data.reset();
      taken.data.reset(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64})));
      taken.bytes = bytes;
    }
    return taken;
  }

  /// Never throws: room in the list was made when the buffer came from it, or is made here, and a
  /// buffer that finds none is freed.
  void give_back(lease::buffer&& buffer) noexcept {
    const std::scoped_lock lock(mutex_);
    if (free_.size() == free_.capacity()) {
#if ATTN_HAS_EXCEPTIONS
      try {
        free_.reserve(free_.size() * 2 + 1);
      } catch (...) {
        return;
      }
#else
      free_.reserve(free_.size() * 2 + 1);
#endif
    }
    free_.push_back(std::move(buffer));
  }

  mutable std::mutex mutex_;
  std::vector<lease::buffer> free_;
};

}  // namespace attn::inline ATTN_ABI
