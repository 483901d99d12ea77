// The fast half of fastupdate/arrays/tree.py: finds the leaves of a structure that has the form of a known one.
#pragma once

#include <pybind11/critical_section.h>
#include <pybind11/numpy.h>

#include <vector>

#include "python/readers.h"

namespace fastupdate {

// The form of a nesting of dicts, lists and tuples.
class Skeleton {
 public:
  // like: exactly such, with None for each leaf. is_container: what tree.py says of other objects.
  Skeleton(py::handle like, py::object is_container) : root_(like), is_container_(std::move(is_container)) {}

  // The leaves of a structure of exactly this form, in the order of the known one; None if it needs a closer look.
  // Keys are looked up, so that they may have another order.
  py::object leaves(const py::object& tree) const {
    py::list found(size_t(root_.leaves));
    Py_ssize_t count = 0;
    if (known_ && find(root_, tree.ptr(), found.ptr(), count)) return found;
    PyErr_Clear();
    return py::none();
  }

 private:
  enum Kind { kLeaf, kDict, kSequence };

  struct Node {
    explicit Node(py::handle like) : kind(kind_of(like.ptr())) {
      if (kind == kDict)
        for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(like)) {
          keys.push_back(py::reinterpret_borrow<py::object>(key));
          children.emplace_back(value);
        }
      else if (kind == kSequence)
        for (const py::handle value : py::reinterpret_borrow<py::sequence>(like)) children.emplace_back(value);
      if (kind != kLeaf) leaves = 0;
      for (const Node& child : children) leaves += child.leaves;
    }

    // Whether no key is an object that could hold the optimizer: those cannot be collected from here.
    bool known() const {
      for (const py::object& key : keys)
        if (!PyUnicode_CheckExact(key.ptr()) && !PyLong_CheckExact(key.ptr())) return false;
      for (const Node& child : children)
        if (!child.known()) return false;
      return true;
    }

    Kind kind;
    std::vector<py::object> keys;  // of a dict
    std::vector<Node> children;
    Py_ssize_t leaves = 1;
  };

  static Kind kind_of(PyObject* object) {
    return PyDict_CheckExact(object)                                 ? kDict
           : PyList_CheckExact(object) || PyTuple_CheckExact(object) ? kSequence
                                                                     : kLeaf;
  }

  // Puts the leaves into a list that has room for them, from `count` on.
  bool find(const Node& node, PyObject* tree, PyObject* found, Py_ssize_t& count) const {
    if (kind_of(tree) != node.kind) return false;
    if (node.kind == kLeaf) {
      if (!is_leaf(tree)) return false;
      PyList_SET_ITEM(found, count++, Py_NewRef(tree));
      return true;
    }
    if (PyObject_Length(tree) != Py_ssize_t(node.children.size())) return false;
    Py_ssize_t at = 0;
    for (size_t k = 0; k < node.children.size(); ++k) {
      const py::object child = node.kind == kDict ? value(tree, node.keys[k].ptr(), at) : item(tree, k);
      if (!child || !find(node.children[k], child.ptr(), found, count)) return false;
    }
    return true;
  }

  // at: where in the dict the key is, if its items have the order of the known one.
  static py::object value(py::handle dict, PyObject* key, Py_ssize_t& at) {
    const py::scoped_critical_section locked(dict);
    PyObject *found, *value;
    const bool there = PyDict_Next(dict.ptr(), &at, &found, &value) && is_same(found, key);
    return py::reinterpret_borrow<py::object>(there ? value : PyDict_GetItemWithError(dict.ptr(), key));
  }

  static bool is_same(PyObject* a, PyObject* b) {
    return a == b || (PyUnicode_CheckExact(a) && PyUnicode_CheckExact(b) &&
                      PyUnicode_GET_LENGTH(a) == PyUnicode_GET_LENGTH(b) && PyUnicode_Compare(a, b) == 0);
  }

  static py::object item(py::handle sequence, size_t k) {
    const py::scoped_critical_section locked(sequence);
    if (Py_ssize_t(k) >= PySequence_Fast_GET_SIZE(sequence.ptr())) return {};
    return py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(sequence.ptr(), k));
  }

  // Arrays are known at a glance, of anything else Python is asked.
  bool is_leaf(PyObject* object) const {
    if (object == Py_None || Py_TYPE(object) == array_type_ || is_torch(object)) return true;
    const auto answer = py::reinterpret_steal<py::object>(PyObject_CallOneArg(is_container_.ptr(), object));
    return answer.ptr() == Py_False;
  }

  const PyTypeObject* const array_type_ = host_array_type();
  Node root_;
  py::object is_container_;
  bool known_ = root_.known();
};

}  // namespace fastupdate
