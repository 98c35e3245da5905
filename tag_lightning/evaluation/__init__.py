"""The comparison of several ways of sampling."""
