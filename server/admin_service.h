// sessa.v1.Admin.
#pragma once

#include <functional>
#include <memory>
#include <unordered_set>

#include "absl/time/time.h"
#include "runtime/base/mutex.h"
#include "server/status_source.h"
#include "sessa/v1/admin.grpc.pb.h"

namespace sessa {

class StatusStream;

// Thread-safe; no method blocks.
class AdminService final : public v1::Admin::CallbackService {
 public:
  // Drains the server within a time and calls `done` once nothing runs.
  using DrainFn = std::function<void(absl::Duration timeout, std::function<void()> done)>;
  AdminService(const StatusSource* status, DrainFn drain, absl::Duration drain_timeout);
  ~AdminService() override;

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::ServerStatus* response) override;
  grpc::ServerWriteReactor<v1::ServerStatus>* WatchStatus(grpc::CallbackServerContext* context,
                                                          const v1::WatchStatusRequest* request) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

  // Sends the statuses that are due. Called every fraction of a second.
  void Tick(absl::Time now);
  // Ends every WatchStatus, and later ones at once: the server is shutting down.
  void CloseStreams();

 private:
  friend class StatusStream;
  void Remove(const std::shared_ptr<StatusStream>& stream);

  const StatusSource* const status_;
  const DrainFn drain_;
  const absl::Duration drain_timeout_;
  Mutex mutex_;
  std::unordered_set<std::shared_ptr<StatusStream>> streams_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sessa
