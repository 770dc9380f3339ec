"""Measurements that back every figure in the documentation."""
