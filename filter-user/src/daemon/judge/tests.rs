// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows under policies as they are written in files.
