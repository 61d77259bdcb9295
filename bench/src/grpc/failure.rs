//! Why a call brought no answer.

use tonic::Code;

use keelson_proto::http2::ErrorCode;

/// Why a call brought no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The server answered with an error.
    #[error("{code:?}: {message}")]
    Status { code: Code, message: String },
    /// The connection is gone, or was never made.
    #[error("transport: {0}")]
    Transport(String),
    /// The server broke the rules of HTTP/2, which ends the connection.
    #[error("protocol: {what} ({code:?})")]
    Protocol { code: ErrorCode, what: &'static str },
    /// The answer is not what the call must bring.
    #[error("unexpected answer: {0}")]
    Answer(&'static str),
}

impl Failure {
    /// A failure of the connection.
    pub fn protocol(code: ErrorCode, what: &'static str) -> Self {
        Self::Protocol { code, what }
    }

    /// The end of a stream by RST_STREAM, as gRPC translates HTTP/2's codes.
    pub fn reset(code: u32) -> Self {
        let is = |known: ErrorCode| code == known as u32;
        let status = if is(ErrorCode::RefusedStream) {
            Code::Unavailable
        } else if is(ErrorCode::Cancel) {
            Code::Cancelled
        } else if is(ErrorCode::EnhanceYourCalm) {
            Code::ResourceExhausted
        } else if is(ErrorCode::InadequateSecurity) {
            Code::PermissionDenied
        } else {
            Code::Internal
        };
        Self::Status {
            code: status,
            message: format!("stream reset with HTTP/2 code {code}"),
        }
    }

    /// The name under which the failure is counted.
    pub fn code(&self) -> String {
        match self {
            Self::Status { code, .. } => format!("{code:?}"),
            Self::Transport(_) | Self::Protocol { .. } => "Transport".to_owned(),
            Self::Answer(_) => "UnexpectedAnswer".to_owned(),
        }
    }

    /// True if the connection cannot be used any further.
    pub fn breaks_connection(&self) -> bool {
        matches!(self, Self::Transport(_) | Self::Protocol { .. })
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Transport(error.to_string())
    }
}
