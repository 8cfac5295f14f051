#include "tests/fault/sessad_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace sessa {

SessadProcess::SessadProcess(std::vector<std::string> flags) {
  const char* build = std::getenv("SESSA_BUILD_DIR");
  flags.insert(flags.begin(), {absl::StrCat(build == nullptr ? "build" : build, "/bin/sessad"),
                               "--listen=127.0.0.1:0", "--metrics_listen="});  // later flags win
  std::vector<char*> argv;
  for (std::string& flag : flags) argv.push_back(flag.data());
  argv.push_back(nullptr);
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) std::abort();
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);  // it was gone before that
    dup2(pipe_fds[1], STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(pipe_fds[1]);
  reader_ = std::thread([this, fd = pipe_fds[0]] { ReadLog(fd); });
  constexpr char kMark[] = "listening grpc=";
  for (int i = 0; i < 12000 && grpc_address_.empty(); ++i) {
    absl::SleepFor(absl::Milliseconds(10));
    MutexLock lock(&mutex_);
    const size_t mark = log_.find(kMark);
    const size_t end = mark == std::string::npos ? mark : log_.find(' ', mark + sizeof kMark - 1);
    if (end != std::string::npos)
      grpc_address_ = log_.substr(mark + sizeof kMark - 1, end - mark - sizeof kMark + 1);
    if (ended_) break;
  }
}

SessadProcess::~SessadProcess() {
  if (exit_code_ < 0) {
    Signal(SIGKILL);
    Wait();
  }
  reader_.join();
}

void SessadProcess::ReadLog(int fd) {
  char buffer[4096];
  ssize_t bytes = 0;
  while ((bytes = read(fd, buffer, sizeof buffer)) > 0) {
    MutexLock lock(&mutex_);
    log_.append(buffer, static_cast<size_t>(bytes));
  }
  close(fd);
  MutexLock lock(&mutex_);
  ended_ = true;
}

std::string SessadProcess::log() const {
  MutexLock lock(&mutex_);
  return log_;
}

void SessadProcess::Signal(int signal) const { kill(pid_, signal); }

int SessadProcess::Wait(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (exit_code_ < 0) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (absl::Now() > end) {
      return -1;
    } else {
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  return exit_code_;
}

int64_t SessadProcess::resident_bytes() const {
  FILE* file = std::fopen(absl::StrCat("/proc/", pid_, "/statm").c_str(), "r");
  if (file == nullptr) return 0;
  long total = 0, resident = 0;
  const int read = std::fscanf(file, "%ld %ld", &total, &resident);
  std::fclose(file);
  return read == 2 ? resident * sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace sessa
