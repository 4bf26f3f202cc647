package manifests

// Limits bound what one repository may cost. Exceeding one is a FileError that
// names the file and the limit.
type Limits struct {
	// MaxFileSize of one file, in bytes.
	MaxFileSize int64
	// MaxTotalSize of all selected files, in bytes.
	MaxTotalSize int64
	// MaxFiles that the globs may select.
	MaxFiles int
	// MaxObjects of a set.
	MaxObjects int
	// MaxObjectSize of one object's JSON, in bytes.
	MaxObjectSize int
	// MaxDepth of nested maps and lists in a document.
	MaxDepth int
	// MaxAliasSize is how many bytes the YAML aliases of one document may expand to.
	MaxAliasSize int
	// MaxErrors that a set lists; how many more there are is told in one of them.
	MaxErrors int
}

// DefaultLimits are GitLab's where GitLab has them.
func DefaultLimits() Limits {
	return Limits{
		MaxFileSize:   5 << 20,
		MaxTotalSize:  200 << 20,
		MaxFiles:      20_000,
		MaxObjects:    50_000,
		MaxObjectSize: 3 << 20, // the API server accepts no larger request
		MaxDepth:      100,
		MaxAliasSize:  1 << 20,
		MaxErrors:     500,
	}
}

// maxFileErrors is how many mistakes of one file are told.
const maxFileErrors = 20

// maxMessage is where a message is cut, in bytes: it may quote the file.
const maxMessage = 600

func clip(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return toValidUTF8(message[:maxMessage]) + "…"
}

// Clip cuts a message that may quote a file to the length that mistakes have at most.
func Clip(message string) string { return clip(toValidUTF8(message)) }
