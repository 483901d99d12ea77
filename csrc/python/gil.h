// Work during which other Python threads may run.
#pragma once

#include <Python.h>
#include <unistd.h>

namespace fastupdate {

// Takes the GIL back. Where Python is shutting down, CPython ends the thread instead (it hangs since 3.14): that would
// unwind its stack, and the process would end in std::terminate. So the thread stays here until the process is gone.
inline void take_gil_back(PyThreadState* state) {
  struct Stay {
    bool taken = false;
    ~Stay() {
      while (!taken) pause();
    }
  } stay;
  PyEval_RestoreThread(state);
  stay.taken = true;
}

template <class Work>
void without_gil(Work work) {
  PyThreadState* const state = PyEval_SaveThread();
  try {
    work();
  } catch (...) {
    take_gil_back(state);
    throw;
  }
  take_gil_back(state);
}

}  // namespace fastupdate
