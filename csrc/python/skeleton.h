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
    py::list found;
    if (known_ && find(root_, tree, found)) return found;
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
  };

  static Kind kind_of(PyObject* object) {
    return PyDict_CheckExact(object)                                 ? kDict
           : PyList_CheckExact(object) || PyTuple_CheckExact(object) ? kSequence
                                                                     : kLeaf;
  }

  bool find(const Node& node, const py::object& tree, py::list& found) const {
    if (kind_of(tree.ptr()) != node.kind) return false;
    if (node.kind == kLeaf) return is_leaf(tree.ptr()) && !PyList_Append(found.ptr(), tree.ptr());
    if (PyObject_Length(tree.ptr()) != Py_ssize_t(node.children.size())) return false;
    for (size_t k = 0; k < node.children.size(); ++k) {
      const py::object child = node.kind == kDict ? value(tree, node.keys[k]) : item(tree, k);
      if (!child || !find(node.children[k], child, found)) return false;
    }
    return true;
  }

  static py::object value(const py::object& dict, const py::object& key) {
    const py::scoped_critical_section locked(dict);
    return py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(dict.ptr(), key.ptr()));
  }

  static py::object item(const py::object& sequence, size_t k) {
    const py::scoped_critical_section locked(sequence);
    if (Py_ssize_t(k) >= PySequence_Fast_GET_SIZE(sequence.ptr())) return {};
    return py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(sequence.ptr(), k));
  }

  // Arrays are known at a glance, of anything else Python is asked.
  bool is_leaf(PyObject* object) const {
    if (object == Py_None || Py_TYPE(object) == host_array_type() || is_torch(object)) return true;
    const auto answer = py::reinterpret_steal<py::object>(PyObject_CallOneArg(is_container_.ptr(), object));
    return answer.ptr() == Py_False;
  }

  Node root_;
  py::object is_container_;
  bool known_ = root_.known();
};

}  // namespace fastupdate
