// A folder of a test's own: two runs on one machine do not meet in it.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

namespace sessa {

// Empty at first; removed with all that is in it at the end.
class TempFolder {
 public:
  TempFolder() : path_(testing::TempDir() + "sessa_test.XXXXXX") {
    EXPECT_NE(mkdtemp(path_.data()), nullptr) << path_;
  }
  ~TempFolder() {
    std::error_code error;  // what is left is no reason to fail
    std::filesystem::remove_all(path_, error);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace sessa
