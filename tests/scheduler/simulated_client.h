// The clients of a simulation: what they asked for, what they were told, and whether it is what the toy model
// and the promises of scheduler/core.h say.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/scheduler/simulator.h"
#include "tests/scheduler/toy_core.h"

namespace sessa::toy {

class SimulatedClients {
 public:
  explicit SimulatedClients(ToyCore* toy) : toy_(*toy) {}

  // --- actions ---
  void Submit(std::unique_ptr<TurnRequest> request);  // gives it an ID and a sink
  // Lets the request continue a session that its principal (rarely: another) knows of, if there is one.
  void ChooseSession(std::mt19937_64& random, TurnRequest* request);
  void CancelSome(std::mt19937_64& random);
  void CancelOnSome(std::mt19937_64& random);  // by a session
  void PauseSome(std::mt19937_64& random);
  void DeleteSome(std::mt19937_64& random);
  void CreateSession(const std::string& principal);
  void Drain(absl::Time deadline);
  void UnpauseAll();
  void ExpectDeviceFault() { device_may_fail_ = true; }

  // --- checks ---
  void Poll();           // verifies the turns that have ended since
  void CheckSessions();  // positions of all sessions. REQUIRES: nothing runs
  void Expect(bool truth, const std::string& promise);
  int32_t live() const { return static_cast<int32_t>(turns_.size()); }
  std::string DescribeLive() const;
  const SimulationResult& result() const { return result_; }

 private:
  struct ClientTurn {
    std::shared_ptr<const TurnRequest> request;  // a copy of what was sent
    std::shared_ptr<RecordingSink> sink;
    bool cancelled = false, cancelled_with_error = false, paused = false, session_deleted = false;
  };
  struct ClientSession {
    std::vector<int32_t> tokens;
    bool deleted = false;
  };
  using SessionKey = std::pair<std::string, std::string>;  // principal, ID

  void Verify(const ClientTurn& turn, const TurnRecord& record);
  void VerifyError(const ClientTurn& turn, const TurnRecord& record);
  void VerifyPrompt(const TurnRequest& request, const TurnRecord& record, const Oracle& before,
                    const std::vector<int32_t>& prompt);
  void VerifySample(const ClientTurn& turn, const TurnRecord& record, int32_t index, Oracle oracle);
  void VerifyEnd(const ClientTurn& turn, const SampleRecord& sample, const Oracle& oracle,
                 const OutputResult& next, bool stop_matched);
  std::vector<int32_t> FullPrompt(const TurnRequest& request, bool opens) const;
  SampleParams FullParams(const TurnRequest& request, int32_t index) const;
  std::vector<ClientTurn*> TurnsOn(const std::string& session_id) const;
  ClientTurn* Some(std::mt19937_64& random);
  std::vector<SessionKey> KnownSessions() const;

  ToyCore& toy_;
  SimulationResult result_;
  int32_t next_request_ = 0;
  std::vector<std::unique_ptr<ClientTurn>> turns_;  // that have not ended, in order of submission
  std::map<SessionKey, ClientSession> sessions_;
  bool draining_ = false, drained_ = false;
  bool device_may_fail_ = false;
};

}  // namespace sessa::toy
