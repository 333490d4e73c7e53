//! One task per guest owns all of its transitions; networks have siblings of it.
